//! What ships beside the program is run, or held against it: commands of the README, examples of the policies' pages,
//! the unit, the image.

mod install;
mod pages;

use std::fs;

use crate::harness::place;

fn text(file: &str) -> String {
    fs::read_to_string(place::root().join(file)).unwrap()
}

/// The text of every fenced block of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begins = format!("```{language}\n");
    let fences = text.split(&begins).skip(1);
    fences.map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

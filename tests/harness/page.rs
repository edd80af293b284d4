//! Does a page say what a run found?
//!
//! A table of results stands in its page between two comments, and each row is held against what was found by the test
//! that finds it: so the page is true whichever tests are run, in one process or in many. With `INSTA_UPDATE=always`, as
//! for snapshots, the row is written instead. What the columns mean, the page's author says.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::place;

/// A table of results, between `<!-- found: NAME -->` and `<!-- end -->`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// The page, from the top of the repository.
    pub(crate) page: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// The first cell of each row, in order.
    pub(crate) rows: &'static [&'static str],
}

impl Table {
    /// The row that begins with `first` goes on with these cells.
    pub(crate) fn has(&self, first: &str, cells: &[String]) {
        assert!(self.rows.contains(&first), "`{first}` is no row of the table `{}`", self.name);
        let row = format!("| {first} | {} |", cells.join(" | "));
        self.hold(&format!("the row\n{row}"), |written| {
            written.insert(first.to_owned(), row.clone());
        });
    }

    /// There are no other rows.
    pub(crate) fn has_nothing_else(&self) {
        self.hold("no more rows than are found", |_| {});
        if !writes() {
            let written = self.split(&self.read()).1;
            let missing: Vec<_> = self.rows.iter().filter(|first| !written.contains_key(**first)).collect();
            assert!(missing.is_empty(), "{}: the table `{}` lacks {missing:?}", self.page, self.name);
        }
    }

    /// Changes what is written as found, and demands that this changes nothing or writes it down.
    fn hold(&self, what: &str, change: impl Fn(&mut BTreeMap<String, String>)) {
        // Tests are processes of their own: two must not write at once.
        let lock = fs::File::create(place::scratch_root().join("page.lock")).unwrap();
        lock.lock().unwrap();
        let before = self.read();
        let after = self.changed(&before, change);
        if writes() {
            fs::write(self.file(), after).unwrap();
        } else {
            let help = "help: INSTA_UPDATE=always writes what is found";
            assert!(before == after, "{}: the table `{}` does not have {what}\n{help}", self.page, self.name);
        }
    }

    fn changed(&self, text: &str, change: impl Fn(&mut BTreeMap<String, String>)) -> String {
        let ([before, head, after], mut written) = self.split(text);
        change(&mut written);
        let rows: String =
            self.rows.iter().filter_map(|first| written.get(*first)).map(|row| format!("{row}\n")).collect();
        format!("{before}{head}{rows}{after}")
    }

    /// What stands before the table, its first two lines, what stands after its rows; and the rows by their first cell.
    fn split<'text>(&self, text: &'text str) -> ([&'text str; 3], BTreeMap<String, String>) {
        let begins = format!("<!-- found: {} -->\n\n", self.name);
        let at = text.find(&begins).unwrap_or_else(|| panic!("{} has no table `{}`", self.page, self.name));
        let (before, rest) = text.split_at(at + begins.len());
        let (table, after) = rest.split_at(rest.find("\n<!-- end -->").unwrap());
        let head: usize = table.split_inclusive('\n').take(2).map(str::len).sum();
        let (head, rows) = table.split_at(head);
        let first = |row: &str| row.split('|').nth(1).unwrap().trim().to_owned();
        ([before, head, after], rows.lines().map(|row| (first(row), row.to_owned())).collect())
    }

    fn file(&self) -> PathBuf {
        place::root().join(self.page)
    }

    fn read(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }
}

fn writes() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always")
}

#[test]
fn a_row_is_put_in_its_place_and_strangers_go() {
    let table = Table { page: "page.md", name: "sums", rows: &["1 + 1", "1 + 2", "1 + 3"] };
    let page = |rows: &str| {
        format!("Before.\n\n<!-- found: sums -->\n\n| sum | is |\n|---|---|\n{rows}\n<!-- end -->\n\nAfter.\n")
    };
    let put = |rows: &str, first: &str, row: &str| {
        table.changed(&page(rows), |written| drop(written.insert(first.to_owned(), row.to_owned())))
    };
    assert_eq!(put("", "1 + 2", "| 1 + 2 | 3 |"), page("| 1 + 2 | 3 |\n"));
    assert_eq!(put("| 1 + 2 | 4 |\n| 5 | 5 |\n", "1 + 2", "| 1 + 2 | 3 |"), page("| 1 + 2 | 3 |\n"));
    assert_eq!(put("| 1 + 2 | 3 |\n", "1 + 1", "| 1 + 1 | 2 |"), page("| 1 + 1 | 2 |\n| 1 + 2 | 3 |\n"));
}

//! Do the source's own rules hold?
//!
//! Prose rules decay; these do not. It reads text only: what a compiler or a linter can hold is held there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::place;

/// A crate (or a path in one) and the modules that may name it.
const FENCES: [(&str, &[&str]); 14] = [
    ("pingora_core", &["edge"]),
    ("hyper::client", &["egress"]),
    ("hyper_util::client", &["egress"]),
    ("hyper_rustls", &["egress"]),
    ("TcpStream::connect", &["egress"]),
    ("jsonwebtoken", &["prover", "identity", "demo"]),
    ("oauth2", &["exchange"]),
    ("x509_parser", &["identity"]),
    ("cedar_policy", &["policy"]),
    ("opentelemetry", &["telemetry"]),
    ("rcgen", &["demo"]),
    ("clap", &["cli"]),
    ("rusqlite", &["state"]),
    ("env::var", &["config"]),
];

/// Stages that can be replayed and measured: text in, judgement out. `now` is an argument.
const PURE: [&str; 8] = [
    "rpc/",
    "catalog/",
    "policy/",
    "inspect/",
    "refusal/",
    "config/written.rs",
    "config/checked.rs",
    "audit/record.rs",
];

/// Files of a pure stage that read the disk for it, before any request is judged.
const READERS: [&str; 1] = ["policy/load.rs"];

/// What has no place in a pure stage.
const IMPURE: [&str; 11] = [
    "async ",
    ".await",
    "tokio::",
    "hyper::",
    "fs::",
    "File::",
    "env::var",
    "Instant::now",
    "SystemTime",
    "clock::now",
    "clock::instant",
];

/// Everything that may stand at the top, besides dotfiles and what git ignores.
const TOP: [&str; 9] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "README.md", "bench", "deploy", "gateway", "policies", "tests"];

/// `lib.rs` lists modules in the order of a request; a module may use only the ones above it.
#[test]
fn imports_point_up_the_request() {
    let order = modules_in_order();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let Some(rank) = order.iter().position(|module| *module == owner(&file)) else { continue };
        for used in names_under(&code(&text), "crate") {
            if order[rank + 1..].contains(&used) {
                wrong.push(format!("{}: uses `{used}`, which comes after `{}`", shown(&file), order[rank]));
            }
        }
    }
    none(wrong);
}

#[test]
fn crates_stay_behind_their_fences() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let code = code(&text);
        for (fenced, allowed) in FENCES {
            let named = match fenced.split_once("::") {
                None => code.contains(&format!("{fenced}::")),
                Some((beginning, name)) => names_under(&code, beginning).iter().any(|used| used == name),
            };
            if named && !allowed.contains(&owner(&file).as_str()) {
                wrong.push(format!("{}: `{fenced}` belongs to {allowed:?}", shown(&file)));
            }
        }
    }
    none(wrong);
}

#[test]
fn pure_stages_do_nothing_but_judge() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let path = shown(&file);
        let is = |part: &&str| path.starts_with(&format!("gateway/src/{part}"));
        if !PURE.iter().any(is) || READERS.iter().any(is) {
            continue;
        }
        let code = code(&text);
        wrong.extend(
            IMPURE.iter().filter(|word| has_word(&code, word)).map(|word| format!("{path}: `{}`", word.trim())),
        );
    }
    none(wrong);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none(silent.map(|(file, _)| format!("{}: no `//!` on line 1", shown(&file))).collect());
}

#[test]
fn every_file_is_part_of_the_program() {
    let mut wrong = Vec::new();
    for (file, _) in rust_files() {
        let (folder, stem) = (file.parent().unwrap(), file.file_stem().unwrap().to_string_lossy().into_owned());
        if matches!(stem.as_str(), "lib" | "main") || folder == place::root().join("bench") {
            continue;
        }
        let (folder, module) = if stem == "mod" {
            (folder.parent().unwrap(), folder.file_name().unwrap().to_string_lossy().into_owned())
        } else {
            (folder, stem)
        };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name));
        let declared = parents.iter().filter_map(|parent| fs::read_to_string(parent).ok());
        let line = format!("mod {module};");
        if !declared.into_iter().any(|text| text.lines().any(|known| known.trim_end().ends_with(&line))) {
            wrong.push(format!("{}: no `{line}` above it", shown(&file)));
        }
    }
    none(wrong);
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = ["common", "util", "utils", "types", "helpers", "prelude", "misc"];
    let found = sources().into_iter().filter(|(file, _)| {
        file.components().any(|part| drawers.contains(&part.as_os_str().to_string_lossy().trim_end_matches(".rs")))
    });
    none(found.map(|(file, _)| format!("{}: says nothing about what it holds", shown(&file))).collect());
}

#[test]
fn no_code_is_commented_out() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if looks_like_code(line.trim_start()) {
                wrong.push(format!("{}:{}: {}", shown(&file), number + 1, line.trim()));
            }
        }
    }
    none(wrong);
}

/// A refusal that no test provokes is a refusal that nobody has seen. The table in `refusal` itself does not count.
#[test]
fn every_refusal_code_is_named_by_a_test() {
    let table = fs::read_to_string(place::root().join("gateway/src/refusal/mod.rs")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let (variant, row) = line.trim().strip_prefix("Self::")?.split_once("=> Row(\"")?;
        let variant: String = variant.chars().take_while(char::is_ascii_alphanumeric).collect();
        Some((variant, row.split('"').next()?.to_owned()))
    });
    let rows: Vec<(String, String)> = rows.collect();
    assert!(rows.len() > 30, "the table of refusals was not understood");
    let tests: String = test_texts().concat();
    let unseen = rows.into_iter().filter(|(variant, code)| {
        !tests.contains(&format!("\"{code}\"")) && !has_word(&tests, &format!("Refusal::{variant}"))
    });
    none(unseen.map(|(variant, code)| format!("`{code}` (Refusal::{variant}): no test names it")).collect());
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (file, text) in files_ending(&["md"]) {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let path = link.split('#').next().unwrap_or_default();
            if !file.parent().unwrap().join(path).exists() {
                wrong.push(format!("{}: nothing at `{link}`", shown(&file)));
            }
        }
    }
    none(wrong);
}

/// What is tried against identities and credentials, and which places of providers are in trouble: the tables of
/// `tests/README.md` have a row for each of them, and each row tests.
const PROVED: [(&str, &[&str]); 2] = [
    (
        "threats",
        &[
            "algorithm and key confusion: `none`, HS256 with a public key, `jku`, `x5u`, `jwk`, `kid` traversal",
            "audience mix-up",
            "issuer mix-up",
            "flood of unknown `kid`s",
            "expired and future tokens",
            "DPoP replay and wrong `htu`",
            "certificate mismatch",
            "forged `act`",
            "redirect-URI tricks",
            "SSRF by client documents",
            "SSRF by metadata and key sets",
            "SSRF by DNS rebinding",
            "SSRF by redirects",
            "registration flood",
            "ID-JAG replay",
            "consent bypass",
            "cross-user grants",
            "cross-user caches",
            "races on refresh",
            "a caller's credential in a request of the gateway, or in its traces",
        ],
    ),
    (
        "faults",
        &[
            "metadata of an issuer",
            "key set of an issuer",
            "introspection",
            "token exchange",
            "metadata of another domain",
            "redemption of an assertion",
            "refresh of an account",
            "metadata of the provider behind the facade",
            "token endpoint of the provider behind the facade",
            "client document",
        ],
    ),
];

#[test]
fn what_the_readme_of_the_tests_says_is_shown_is_shown_by_tests_that_exist() {
    let text = fs::read_to_string(place::tests().join("README.md")).unwrap();
    let mut wrong = Vec::new();
    for (name, wanted) in PROVED {
        let table =
            text.split(&format!("<!-- tests: {name} -->")).nth(1).and_then(|rest| rest.split("<!-- end -->").next());
        let rows = table.unwrap_or_else(|| panic!("no table `{name}`")).lines().filter(|line| line.starts_with("| "));
        let rows: Vec<Vec<&str>> = rows.skip(1).map(|row| row.split('|').map(str::trim).collect()).collect();
        let found: Vec<&str> = rows.iter().map(|row| row[1]).collect();
        if found != wanted {
            wrong.push(format!("tests/README.md: the table `{name}` is of {found:?}, not of {wanted:?}"));
        }
        for row in &rows {
            let tests: Vec<&str> = row[2].split('`').filter(|name| name.contains("::")).collect();
            let missing = tests.iter().filter(|name| !is_test(name)).map(|name| format!("no test `{name}`"));
            wrong.extend(missing.chain(tests.is_empty().then(|| format!("`{}` is shown by nothing", row[1]))));
        }
    }
    none(wrong);
}

/// `attacks::passthrough::name` is a function of `tests/attacks/passthrough.rs`, and `tollgate::egress::tests::name` one of
/// the crate's own.
fn is_test(name: &str) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else { return false };
    let file = match module.strip_prefix("tollgate::") {
        Some(own) => source_folder().join(own.replace("::", "/")),
        None => place::tests().join(module.replace("::", "/")),
    };
    let text = fs::read_to_string(file.with_extension("rs")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = [format!("fn {function}("), format!("async fn {function}(")];
    let at = lines.iter().position(|line| begins.iter().any(|begin| line.starts_with(begin)));
    at.is_some_and(|at| at > 0 && lines[at - 1].contains("test]"))
}

#[test]
fn variables_that_clap_reads_are_told() {
    let told = fs::read_to_string(place::root().join("gateway/ARCHITECTURE.md")).unwrap();
    let mut found = Vec::new();
    for (file, text) in sources() {
        let code = code(&text);
        let attributes = code.lines().filter(|line| line.trim_start().starts_with("#[arg("));
        for name in attributes.filter_map(|line| line.split("env = \"").nth(1)) {
            found.push((shown(&file), name.split('"').next().unwrap_or_default().to_owned()));
        }
    }
    assert!(!found.is_empty(), "no variable was understood");
    let untold = found.into_iter().filter(|(_, name)| !told.contains(&format!("`{name}`")));
    none(untold.map(|(file, name)| format!("{file}: gateway/ARCHITECTURE.md does not tell of `{name}`")).collect());
}

/// `attacks::passthrough` is a file with tests, or a test in one.
#[test]
fn tests_that_the_architecture_names_exist() {
    let text = fs::read_to_string(place::root().join("gateway/ARCHITECTURE.md")).unwrap();
    let names = text.split('`').filter(|name| {
        name.split_once("::")
            .is_some_and(|(first, _)| ["attacks", "request", "clients", "conformance"].contains(&first))
    });
    let missing = names.filter(|name| {
        let mut parts = name.split("::");
        let (folder, module) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let file = place::tests().join(folder).join(format!("{module}.rs"));
        let text = fs::read_to_string(file).unwrap_or_default();
        !parts.next().map_or(text.contains("#[test]"), |function| text.contains(&format!("fn {function}(")))
    });
    none(missing.map(|name| format!("gateway/ARCHITECTURE.md: no test `{name}`")).collect());
}

#[test]
fn top_level_holds_only_what_the_readme_explains() {
    let entries = fs::read_dir(place::root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let known =
        |name: &str| name.starts_with('.') || name == "target" || name == "upstreams.toml" || TOP.contains(&name);
    let mut wrong: Vec<String> = entries.filter(|name| !known(name)).collect();
    let folders = ["bench", "deploy", "policies", "tests"].map(|folder| format!("{folder}/README.md"));
    wrong.extend(folders.into_iter().filter(|readme| !place::root().join(readme).exists()));
    none(wrong);
}

/// A path of the machine that it was written on says nothing to a reader.
#[test]
fn no_file_names_the_folder_it_was_written_in() {
    let root = place::root();
    let Some(above) = root.parent().filter(|above| *above != Path::new("/")) else { return };
    let here = format!("{}/", above.display());
    let files = files_ending(&["rs", "md", "toml", "mjs", "py", "cedar", "sh", "yml", "yaml", "json", "snap"]);
    none(files.into_iter().filter(|(_, text)| text.contains(&here)).map(|(file, _)| shown(&file)).collect());
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn modules_in_order() -> Vec<String> {
    let lib = fs::read_to_string(source_folder().join("lib.rs")).unwrap();
    lib.lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .map(String::from)
        .collect()
}

/// Every `x` in `crate::x` and in the first level of `crate::{x, y::z}`, for `crate` or any other beginning.
fn names_under(code: &str, beginning: &str) -> Vec<String> {
    let name = |path: &str| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in code.split(&format!("{beginning}::")).skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.push(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0_i32, true);
        for (at, c) in group.char_indices() {
            if start && depth == 0 && !c.is_whitespace() && c != ',' {
                found.push(name(&group[at..]));
                start = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ => (),
            }
        }
    }
    found
}

/// What is compiled into the program: no comments, and nothing that is there for tests only.
fn code(text: &str) -> String {
    let (program, _) = parted(text);
    program.into_iter().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The lines of the program, and those of the items under `#[cfg(test)]`: an item of several lines ends with a bracket
/// that stands where it began, as rustfmt has it.
fn parted(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut program, mut tests) = (Vec::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("#[cfg(test)]").filter(|indent| indent.trim().is_empty()) else {
            program.push(line);
            continue;
        };
        let mut is_open = false;
        for line in lines.by_ref() {
            tests.push(line);
            let line = line.strip_prefix(indent).unwrap_or_default();
            let begins = !line.starts_with([' ', '#', '/', ')']) && !line.is_empty();
            if line.starts_with('}') || (!is_open && begins && line.ends_with([';', ',', '}'])) {
                break;
            }
            is_open |= begins;
        }
    }
    (program, tests)
}

#[test]
fn what_is_for_tests_ends_where_it_ends() {
    let text = "use a;\n#[cfg(test)]\nmod tests;\n// b\nuse c;\n#[cfg(test)]\n#[expect(d)]\nmod e {\n    f(\"\na,\n\");\n}\nuse g;\n\
                impl H {\n    #[cfg(test)]\n    fn i(\n        &self,\n    ) -> J {\n        if k {\n        }\n    }\n    l();\n}\n";
    assert_eq!(code(text), "use a;\nuse c;\nuse g;\nimpl H {\n    l();\n}");
}

/// Whether `word` stands in `code` and is not the end or the beginning of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = !word.starts_with(part_of_name) || !before.is_some_and(part_of_name);
        let ends = !word.ends_with(part_of_name) || !after.is_some_and(part_of_name);
        starts && ends
    })
}

fn looks_like_code(line: &str) -> bool {
    let Some(comment) = line.strip_prefix("// ").map(str::trim) else { return false };
    let first = comment.split(|c: char| !c.is_alphanumeric() && c != '#').next().unwrap_or_default();
    let keyword =
        ["let", "fn", "if", "for", "while", "match", "use", "pub", "self", "return", "mod", "#"].contains(&first);
    let ends = comment.ends_with([';', '{', '}']);
    (keyword && ends) || comment.ends_with(");") || matches!(comment, "}" | "};" | "})")
}

/// Everything that tests are written in, besides this file and the table of refusals.
fn test_texts() -> Vec<String> {
    let mut texts = Vec::new();
    for (file, text) in rust_files() {
        let path = shown(&file);
        if path == "tests/tidy.rs" || path.starts_with("gateway/src/refusal/") {
            continue;
        }
        let whole = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        texts.push(if whole { text } else { parted(&text).1.join("\n") });
    }
    texts
}

fn owner(file: &Path) -> String {
    let first = file.strip_prefix(source_folder()).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(place::root()).unwrap().display().to_string()
}

fn source_folder() -> PathBuf {
    place::root().join("gateway/src")
}

/// The program's own files, without those that hold only tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = rust_files();
    found.retain(|(file, _)| file.starts_with(source_folder()) && !file.ends_with("tests.rs"));
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files_ending(&["rs"])
}

/// The files of the repository with these endings, without what git ignores.
fn files_ending(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["gateway", "tests", "bench", "policies", "deploy"] {
        collect(&place::root().join(folder), &mut found);
    }
    for entry in fs::read_dir(place::root()).unwrap().map(|entry| entry.unwrap().path()) {
        found.extend(entry.is_file().then_some(entry));
    }
    found.retain(|file| file.extension().is_some_and(|end| endings.iter().any(|ending| end == *ending)));
    found.sort();
    found
        .into_iter()
        .map(|file| (file.clone(), String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned()))
        .collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ignored = name.starts_with('.') || matches!(name.as_str(), "node_modules" | "__pycache__" | "target");
        match (ignored, path.is_dir()) {
            (true, _) => (),
            (false, true) => collect(&path, into),
            (false, false) => into.push(path),
        }
    }
}

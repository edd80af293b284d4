//! What is wrong with the way in which an upstream is reached?
//!
//! A URL or a command, each with its own keys and no others. It starts nothing and dials nobody.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{Checker, Place, values::Plain};
use crate::{
    config::{
        checked::{ClientCertificate, Grant, Program, Remote, Transport},
        read::names_secret,
        written::{self, Reference},
    },
    refusal::Era,
    secret::Secret,
};

impl Checker<'_> {
    pub(super) fn transport(&mut self, written: &written::Upstream, place: &Place) -> Option<Transport> {
        let Some(command) = &written.command else {
            // One that cannot be read is told already, and nothing else is missing.
            let is_program = self.removed.contains(&(place.span.start, "command".to_owned()));
            return if is_program { None } else { self.remote(written, place) };
        };
        let other_keys = [
            ("url", written.url.as_ref().map(Spanned::span)),
            ("transport", written.transport.as_ref().map(Spanned::span)),
            ("insecure_http", written.insecure_http.as_ref().map(Spanned::span)),
            ("ca", written.ca.as_ref().map(Spanned::span)),
            ("client_certificate", written.client_certificate.as_ref().map(Spanned::span)),
        ];
        self.out_of_place(other_keys, "command");
        self.program(written, command).map(Transport::Stdio)
    }

    /// What the way to an upstream rules out: `grant` fills headers, and a process has none.
    pub(super) fn fits_transport(
        &mut self,
        written: &written::Upstream,
        transport: Option<&Transport>,
        grant: Option<&Grant>,
    ) {
        match transport {
            Some(Transport::Stdio(_)) => {
                if let (Some(at), Some(grant)) = (&written.grant, grant)
                    && !matches!(grant, Grant::Nothing)
                {
                    let help = "remove `grant`, and give the program its secret: \
                                `environment = { API_KEY = { env = \"CRM_API_KEY\" } }`";
                    self.problem("a program takes no `grant`", at.span(), "travels in a header", help);
                }
                if let Some(at) = &written.discovery {
                    let help = "remove `discovery`: the program reads its own catalogue as it answers calls";
                    self.problem("a program takes no `discovery`", at.span(), "travels in a header", help);
                }
            }
            Some(Transport::Sse(_)) => {
                if let Some(at) = written.era.as_ref().filter(|era| matches!(era.get_ref(), written::Era::Modern)) {
                    let help = format!("remove `era`, or `transport`: a {} server has one URL", Era::Modern.as_str());
                    self.problem("HTTP+SSE is a transport of the legacy era", at.span(), "not on this transport", help);
                }
                let tables = [&written.grant, &written.discovery].into_iter().flatten();
                for at in tables.filter_map(|table| table.get_ref().dpop.as_ref()).filter(|dpop| *dpop.get_ref()) {
                    let help = "remove `dpop`, or `transport`: a proof is for one request (RFC 9449 §4.2), and a stream of \
                                HTTP+SSE stands for many";
                    self.problem("HTTP+SSE takes no proofs", at.span(), "not on this transport", help);
                }
            }
            Some(Transport::Http(_)) | None => {}
        }
    }

    fn remote(&mut self, written: &written::Upstream, place: &Place) -> Option<Transport> {
        let plain = match written.insecure_http.as_ref().map(Spanned::get_ref) {
            Some(true) => Plain::Anywhere,
            Some(false) | None => Plain::Loopback,
        };
        let url = self
            .required(&written.url, place, "url", "url = \"https://crm.internal/mcp\"")
            .and_then(|url| self.url(url, "`url`", plain));
        let other_keys = [
            ("environment", written.environment.as_ref().map(Spanned::span)),
            ("directory", written.directory.as_ref().map(Spanned::span)),
        ];
        self.out_of_place(other_keys, "url");
        let ca = self.authorities(&written.ca);
        let client_certificate = match &written.client_certificate {
            Some(pair) => self.client_certificate(pair).map(Some),
            None => Some(None),
        };
        let remote = Remote {
            url: url?,
            ca: ca?,
            client_certificate: client_certificate?,
            insecure_http: plain == Plain::Anywhere,
        };
        Some(match written.transport.as_ref().map(Spanned::get_ref) {
            None | Some(written::Transport::Http) => Transport::Http(remote),
            Some(written::Transport::Sse) => Transport::Sse(remote),
        })
    }

    fn client_certificate(&mut self, pair: &Spanned<written::ClientCertificate>) -> Option<ClientCertificate> {
        let place = Place { name: "`client_certificate`".to_owned(), span: pair.span() };
        let written = pair.get_ref();
        let (certificate, key) = self.certificate_and_key(&written.certificate, &written.key, &place)?;
        Some(ClientCertificate { certificate, key })
    }

    fn out_of_place<const N: usize>(&mut self, keys: [(&str, Option<Range<usize>>); N], with: &str) {
        for (key, span) in keys {
            if let Some(span) = span {
                let help = format!("remove it, or `{with}`: an upstream is either a `url` or a `command`");
                self.problem(format!("`{key}` means nothing with `{with}`"), span, "has no effect", help);
            }
        }
    }

    fn program(&mut self, written: &written::Upstream, command: &Spanned<Vec<Spanned<String>>>) -> Option<Program> {
        let (environment, secrets) = self.variables(written);
        let directory = match &written.directory {
            // Beside a file that was named without a folder is here.
            None => Some(self.folder.join(".")),
            Some(directory) => self.directory(directory),
        };
        if let Some(word) = command.get_ref().iter().find(|word| word.get_ref().contains('\0')) {
            self.problem("a word of a command holds a NUL", word.span(), "ends the word", "remove the NUL");
            return None;
        }
        let Some((first, arguments)) = command.get_ref().split_first().filter(|(first, _)| !first.get_ref().is_empty())
        else {
            let help = "write `command = [\"/usr/bin/server\", \"--stdio\"]`: the file, then each argument by itself";
            self.problem("`command` names no program", command.span(), "nothing to run", help);
            return None;
        };
        let file = self.file_of_program(first, environment.get("PATH"));
        Some(Program {
            file: file?,
            arguments: arguments.iter().map(|argument| argument.get_ref().clone()).collect(),
            environment,
            secrets,
            directory: directory?,
        })
    }

    /// The file is found once, here: what a search path holds later changes nothing.
    fn file_of_program(&mut self, written: &Spanned<String>, path: Option<&Secret>) -> Option<PathBuf> {
        let name = Path::new(written.get_ref());
        let is_name = !written.get_ref().contains('/');
        if !is_name && !name.is_absolute() {
            let help = "write the whole path, or a name without `/` that is looked up in `PATH`";
            self.problem("a program has a relative path", written.span(), "relative to what?", help);
            return None;
        }
        if !self.environment.is_here() {
            return Some(name.to_owned());
        }
        let folders = path.map(Secret::expose).unwrap_or_default().split(':').map(Path::new);
        let mut candidates: Vec<PathBuf> = if is_name {
            // An empty entry would be the working directory: whoever writes there would choose what runs.
            folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).collect()
        } else {
            vec![name.to_owned()]
        };
        candidates.retain(|candidate| self.environment.is_program(candidate));
        if candidates.is_empty() {
            let message = format!("there is no program `{}`", written.get_ref().escape_debug());
            let help = if written.get_ref().contains(' ') {
                "there is no shell: write the file and each argument as words of their own, `[\"server\", \"--stdio\"]`"
            } else {
                "install it, or write the path where it is; it has to be executable"
            };
            self.problem(message, written.span(), "cannot be run", help);
        }
        candidates.into_iter().next()
    }

    fn directory(&mut self, written: &Spanned<String>) -> Option<PathBuf> {
        let path = self.path(written)?;
        if self.environment.is_here() && !self.environment.is_folder(&path) {
            let message = format!("`{}` is no folder", path.display());
            self.problem(message, written.span(), "to start in", "create it, or name another");
            return None;
        }
        Some(path)
    }

    /// Everything that the program sees of variables, and the secrets among them. Of the gateway's own it gets the few
    /// that say where things are; each may be written otherwise.
    fn variables(&mut self, written: &written::Upstream) -> (BTreeMap<String, Secret>, Vec<Secret>) {
        let inherited =
            INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), self.environment.variable(name)?)));
        let mut variables: BTreeMap<String, Secret> = inherited.collect();
        let mut secrets = Vec::new();
        for (name, reference) in written.environment.iter().flat_map(|table| table.get_ref()) {
            let grammar = "1 to 128 of `A-Z`, `a-z`, `0-9` and `_`, no digit first";
            let Some(name) = self.word(name, "a variable's name", is_variable, grammar) else { continue };
            let value = match reference.get_ref() {
                Reference::Inline(_) if !names_secret(&name) => {
                    self.text(reference, "the variable").map(|text| Secret::new(text.into_inner()))
                }
                Reference::Inline(_) | Reference::Elsewhere(_) => self.secret(reference, &format!("`{name}`")),
            };
            let Some(value) = value else { continue };
            if value.expose().contains('\0') {
                self.problem(format!("`{name}` holds a NUL"), reference.span(), "what this points to", "remove it");
                continue;
            }
            if let Reference::Elsewhere(_) = reference.get_ref() {
                secrets.push(value.clone());
            }
            variables.insert(name, value);
        }
        (variables, secrets)
    }
}

/// POSIX.1-2024 §3.216, bounded.
fn is_variable(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The variables of the gateway that a program gets: where programs are, where its user's files are, and how text is written.
const INHERITED: [&str; 3] = ["HOME", "LANG", "PATH"];

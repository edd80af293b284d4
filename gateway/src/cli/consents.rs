//! `tollgate consents`.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Answer, ConfigFile, Failure,
    clients::{facade, words},
    revoke::{operator, plain, written},
    runtime,
};
use crate::{
    clock,
    facade::registry::{self, Agreed, Taking, Whose},
};

/// List and remove what people agreed to at the gateway's own authorization server, `[facade]`.
///
/// Who agreed for a client is not asked again, where codes go to a place on the web. What is done here counts within a second
/// at every gateway on the `[state] directory` of the configuration, and the journal has it as `revocation`.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Arguments {
    /// Print consents, by person.
    List(List),
    /// Take consents back, and end the logins under them with all that came of these.
    Remove(Remove),
}

#[derive(Debug, Args)]
struct Named {
    /// Of this person, by `sub`.
    #[arg(long, value_name = "SUB")]
    user: Option<String>,
    /// With this client, by id.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    config: ConfigFile,
    /// As JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    config: ConfigFile,
    /// Why; the journal keeps it.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

impl Named {
    fn whose(&self) -> Whose<'_> {
        Whose { user: self.user.as_deref(), client: self.client.as_deref() }
    }
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    match arguments {
        Arguments::List(list) => all(list, out),
        Arguments::Remove(remove) => withdraw(remove, out),
    }
}

fn all(arguments: &List, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = facade(&arguments.config.config)?;
    let agreed = runtime()?.block_on(registry::agreed(&store, arguments.named.whose(), clock::now())).map_err(words)?;
    for consent in &agreed {
        if arguments.json {
            writeln!(out, "{}", shown(consent))?;
        } else {
            writeln!(out, "{}", told(consent))?;
        }
    }
    if agreed.is_empty() && !arguments.json {
        writeln!(out, "no consent is kept")?;
    }
    Ok(Answer::Yes)
}

fn withdraw(arguments: &Remove, out: &mut impl Write) -> Result<Answer, Failure> {
    let Remove { named, config, why, json } = arguments;
    if named.user.is_none() && named.client.is_none() {
        return Err(Failure::Words("say whose consents: `--user`, `--client`, or both".to_owned()));
    }
    let (_, store) = facade(&config.config)?;
    let by = operator();
    let taking = Taking { why: why.as_deref().unwrap_or("the consent is taken back"), by: &by };
    let taken = runtime()?.block_on(registry::withdraw(&store, named.whose(), taking, clock::now()));
    let (consents, logins) = taken.map_err(words)?;
    if *json {
        writeln!(out, "{}", json!({ "consents": consents, "logins": logins }))?;
    } else {
        writeln!(out, "consents removed: {consents}; logins ended: {logins}")?;
    }
    Ok(if consents == 0 && logins == 0 { Answer::No } else { Answer::Yes })
}

pub(super) fn shown(consent: &Agreed) -> Value {
    json!({
        "user": consent.user, "provider": consent.provider, "client": consent.client, "resource": consent.resource,
        "scopes": consent.scopes, "redirect_uri": consent.redirect_uri, "given": written(consent.given),
        "until": written(consent.until),
    })
}

pub(super) fn told(consent: &Agreed) -> String {
    let Agreed { user, client, resource, scopes, given, until, .. } = consent;
    let (given, until) = (written(*given), written(*until));
    let scopes = if scopes.is_empty() { "no scope".to_owned() } else { scopes.join(" ") };
    plain(&format!("{user}  {client}  {resource}: {scopes}, given {given}, until {until}"))
}

const AFTER_HELP: &str = "\
Examples:
  tollgate consents list --user alice
  tollgate consents remove --user alice --client dcr-x3Kq81fV
  tollgate consents remove --client https://app.example.com/client.json --why 'INC-4711'";

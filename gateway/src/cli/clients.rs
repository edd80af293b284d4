//! `tollgate clients`.

use std::{io::Write, path::Path, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Answer, ConfigFile, Failure,
    revoke::{opened, operator, plain, written},
    runtime,
};
use crate::{
    clock, config,
    facade::registry::{self, Registered, Taking, Whose},
    state::{Store, StoreFault},
};

/// List, show and remove clients of the gateway's own authorization server, `[facade]`.
///
/// Clients register themselves there, and are forgotten where nobody logs in with them. What is done here counts within a
/// second at every gateway on the `[state] directory` of the configuration, and the journal has it as `revocation`.
#[derive(Debug, Subcommand)]
#[command(after_help = AFTER_HELP)]
pub(super) enum Arguments {
    /// Print all clients that registered.
    List(List),
    /// Print one of them, and who agreed to what with it.
    Show(One),
    /// Forget a client and what people agreed to with it, and end everything that it was given.
    ///
    /// It may register anew, as somebody else. Clients that are known by their own document are not registered: `tollgate
    /// revoke agent` ends what they have and keeps them out, and `client_domains` says whose documents are taken.
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    config: ConfigFile,
    /// As JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// Its id, as `clients list` and the journal's `authorization.client_id` have it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    one: One,
    /// Why; the journal keeps it.
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    match arguments {
        Arguments::List(list) => all(list, out),
        Arguments::Show(one) => show(one, out),
        Arguments::Remove(remove) => forget(remove, out),
    }
}

fn all(arguments: &List, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = facade(&arguments.config.config)?;
    let clients = runtime()?.block_on(registry::registered(&store, clock::now())).map_err(words)?;
    for client in &clients {
        if arguments.json {
            writeln!(out, "{}", shown(client))?;
        } else {
            writeln!(out, "{}", told(client))?;
        }
    }
    if clients.is_empty() && !arguments.json {
        writeln!(out, "no client is registered")?;
    }
    Ok(Answer::Yes)
}

fn show(arguments: &One, out: &mut impl Write) -> Result<Answer, Failure> {
    let (_, store) = facade(&arguments.config.config)?;
    let (now, runtime) = (clock::now(), runtime()?);
    let clients = runtime.block_on(registry::registered(&store, now)).map_err(words)?;
    let Some(client) = clients.iter().find(|client| client.id == arguments.id) else { return unknown(out) };
    let whose = Whose { client: Some(&client.id), ..Whose::default() };
    let agreed = runtime.block_on(registry::agreed(&store, whose, now)).map_err(words)?;
    if arguments.json {
        let mut object = shown(client);
        if let Some(members) = object.as_object_mut() {
            members.insert("consents".to_owned(), agreed.iter().map(super::consents::shown).collect());
        }
        writeln!(out, "{object}")?;
        return Ok(Answer::Yes);
    }
    writeln!(out, "{}", told(client))?;
    for consent in &agreed {
        writeln!(out, "  {}", super::consents::told(consent))?;
    }
    Ok(Answer::Yes)
}

fn forget(arguments: &Remove, out: &mut impl Write) -> Result<Answer, Failure> {
    let Remove { one, why } = arguments;
    let ((issuer, tokens_live), store) = facade(&one.config.config)?;
    let (by, why) = (operator(), why.as_deref().unwrap_or("the client's registration is removed"));
    let taking = Taking { why, by: &by };
    let forgotten = registry::forget(&store, (&one.id, &issuer), (taking, tokens_live), clock::now());
    if !runtime()?.block_on(forgotten).map_err(words)? {
        return unknown(out);
    }
    if one.json {
        writeln!(out, "{}", json!({ "id": one.id, "removed": true }))?;
    } else {
        writeln!(out, "client {} is removed", plain(&one.id))?;
    }
    Ok(Answer::Yes)
}

fn unknown(out: &mut impl Write) -> Result<Answer, Failure> {
    writeln!(out, "no client registered under this id: `tollgate clients list` shows all that did")?;
    Ok(Answer::No)
}

/// The state of a gateway that is an authorization server: by which name it issues, and how long that lives.
pub(super) fn facade(path: &Path) -> Result<((String, Duration), Store), Failure> {
    let (config, store) = opened(path)?;
    let Some(facade) = config.facade.clone() else {
        return Err(Failure::Words(format!("`{}` has no `[facade]`: nobody registers there", path.display())));
    };
    let config::Issuer { issuer, lifetime_max, leeway, .. } = facade.own.as_ref();
    let live = facade.login.saturating_add(*lifetime_max).saturating_add(*leeway);
    Ok(((issuer.clone(), live), store))
}

fn shown(client: &Registered) -> Value {
    json!({
        "id": client.id, "name": client.name, "redirect_uris": client.redirect_uris, "signs": client.signs,
        "used": client.used, "noted": written(client.noted), "until": written(client.until),
    })
}

fn told(client: &Registered) -> String {
    let Registered { id, name, redirect_uris, used, noted, until, .. } = client;
    let state = if *used { "last used" } else { "not used, registered" };
    let (noted, until) = (written(*noted), written(*until));
    plain(&format!("{id}  {name}: {state} {noted}, until {until}, at {}", redirect_uris.join(" ")))
}

pub(super) fn words(fault: StoreFault) -> Failure {
    Failure::Words(fault.to_string())
}

const AFTER_HELP: &str = "\
Examples:
  tollgate clients list --json | jq -r 'select(.used | not).id'
  tollgate clients show dcr-x3Kq81fV
  tollgate clients remove dcr-x3Kq81fV --why 'INC-4711: nobody knows it'";

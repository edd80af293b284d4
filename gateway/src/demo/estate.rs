//! What does the demo consist of?
//!
//! Starts the issuer and the sample servers, and writes what a gateway needs to stand before them: configuration,
//! policies, certificates, a secret. It does not start the gateway.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use super::{
    DemoError,
    issuer::{GATEWAY, Issuer},
    loopback::Socket,
    servers::{Verifier, crm::Crm, notes::Notes},
};
use crate::{
    egress::{Client, Trust},
    secret::Secret,
};

/// Everything around the gateway, running and written down. The folder goes when this is dropped, unless it was named.
#[derive(Debug)]
pub struct Estate {
    scratch: Scratch,
    pub(super) issuer_url: String,
    pub(super) public_url: String,
}

/// A folder that only this user can look into.
#[derive(Debug)]
struct Scratch {
    folder: PathBuf,
    /// Whoever named it wants to look into it afterwards.
    keep: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the system's folder for temporary files, which is there for that.
            drop(fs::remove_dir_all(&self.folder));
        }
    }
}

/// Where things are, for the configuration.
struct Addresses<'a> {
    issuer: &'a str,
    crm: SocketAddr,
    notes: SocketAddr,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl Estate {
    /// Starts the issuer and the servers, and writes down the rest, with the shipped policies: into `keep`, which must not
    /// be there yet, or else into a temporary folder.
    ///
    /// # Errors
    /// [`DemoError`] where a port, a folder or a key cannot be had.
    pub async fn build(keep: Option<&Path>) -> Result<Self, DemoError> {
        let scratch = Scratch::new(keep)?;
        let [gateway, admin] = free_ports()?;
        let public_url = format!("https://{gateway}");
        let secret = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        scratch.write("client-secret", secret.expose())?;
        let doors = ["", "/crm", "/notes"].map(|tail| format!("{public_url}/mcp{tail}"));
        let issuer = Issuer::start(secret, doors.to_vec()).await?;
        let (crm, notes) = servers(&issuer.url).await?;
        scratch.certificates(gateway)?;
        scratch.folder("policies")?;
        for (name, text) in POLICIES {
            scratch.write(&format!("policies/{name}"), text)?;
        }
        let addresses = Addresses { issuer: &issuer.url, crm, notes, gateway, admin };
        scratch.write("upstreams.toml", &scratch.configuration(&addresses))?;
        Ok(Self { scratch, issuer_url: issuer.url.clone(), public_url })
    }

    /// The configuration to start the gateway on.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.scratch.folder.join("upstreams.toml")
    }

    /// PEM of the authority that made the gateway's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.scratch.folder.join("ca.crt")
    }

    /// The folder of the journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.scratch.folder.join("audit")
    }
}

impl Scratch {
    fn new(keep: Option<&Path>) -> Result<Self, DemoError> {
        let folder = match keep {
            Some(folder) => std::path::absolute(folder).map_err(|error| DemoError::at("the folder to keep", error))?,
            None => std::env::temp_dir().join(format!("tollgate-demo-{}", uuid::Uuid::new_v4().simple())),
        };
        // Made before anything would remove it: a folder that was there is somebody else's.
        if keep.is_some() && folder.exists() {
            let help = "is there already; name a new folder, or remove it";
            return Err(DemoError(format!("`{}` {help}", folder.display())));
        }
        make_folder(&folder)?;
        Ok(Self { folder, keep: keep.is_some() })
    }

    fn folder(&self, name: &str) -> Result<(), DemoError> {
        make_folder(&self.folder.join(name))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), DemoError> {
        let path = self.folder.join(name);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| DemoError::at(&path.display().to_string(), error))
    }

    /// An authority of its own, and a certificate for the gateway made by it: clients can be told to trust just that.
    fn certificates(&self, gateway: SocketAddr) -> Result<(), DemoError> {
        let failed = |error| DemoError::at("the gateway's certificate", error);
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed);
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "Tollgate demo authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = key()?;
        self.write("ca.crt", &authority.self_signed(&authority_key).map_err(failed)?.pem())?;
        let authority = rcgen::Issuer::new(authority, authority_key);
        let names = vec![gateway.ip().to_string(), "localhost".to_owned()];
        let mut leaf = CertificateParams::new(names).map_err(failed)?;
        leaf.distinguished_name.push(DnType::CommonName, "Tollgate demo");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let leaf_key = key()?;
        self.write("tls.crt", &leaf.signed_by(&leaf_key, &authority).map_err(failed)?.pem())?;
        self.write("tls.key", &leaf_key.serialize_pem())
    }

    fn configuration(&self, addresses: &Addresses<'_>) -> String {
        let file = |name: &str| quoted(&self.folder.join(name));
        let Addresses { issuer, crm, notes, gateway, admin } = addresses;
        let grant = |audience: &str, server: &SocketAddr, scope: &str| {
            format!(
                r#"{{ strategy = "exchange", token_endpoint = "{issuer}/token", client = {{ id = "{GATEWAY}", secret = {{ file = {secret} }} }}, audience = "{audience}", resource = "http://{server}/mcp", scopes = ["{scope}"], actor = true }}"#,
                secret = file("client-secret"),
            )
        };
        format!(
            r#"[gateway]
public_url   = "https://{gateway}"
listen       = "{gateway}"
admin_listen = "{admin}"
policies     = {policies}
tls          = {{ certificate = {certificate}, key = {key} }}

[[issuers]]
issuer     = "{issuer}"
algorithms = ["ES256"]
claims     = {{ tenant = "tenant", groups = "groups" }}

[audit]
directory = {audit}

[upstreams.crm]
url   = "http://{crm}/mcp"
grant = {crm_grant}

[[upstreams.crm.tools]]
match    = "create_order"
requires = ["crm:write"]
mints    = ["crm.write"]
tags     = ["write"]

[[upstreams.crm.tools]]
match = "delete_customer"
mints = ["crm.write"]
tags  = ["write"]

[upstreams.notes]
url   = "http://{notes}/mcp"
grant = {notes_grant}

[[upstreams.notes.tools]]
match = "write_note"
mints = ["notes.write"]
tags  = ["write"]
"#,
            policies = file("policies"),
            certificate = file("tls.crt"),
            key = file("tls.key"),
            audit = file("audit"),
            crm_grant = grant("crm-api", crm, "crm.read"),
            notes_grant = grant("notes-api", notes, "notes.read"),
        )
    }
}

fn make_folder(path: &Path) -> Result<(), DemoError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| DemoError::at(&path.display().to_string(), error))
}

pub(super) async fn servers(issuer: &str) -> Result<(SocketAddr, SocketAddr), DemoError> {
    let client = Client::new(&Trust::default()).map_err(|error| DemoError::at("a client for the servers", error))?;
    let open = async |what: &str| Socket::open().await.map_err(|error| DemoError::at(what, error));
    let (crm, notes) = (open("the port of `crm`").await?, open("the port of `notes`").await?);
    let addresses = (crm.address, notes.address);
    let verifier = |audience| Verifier::new(issuer.to_owned(), audience, client.clone());
    crm.answer_with(Arc::new(Crm::new(verifier("crm-api"))));
    notes.answer_with(Arc::new(Notes::new(verifier("notes-api"))));
    Ok(addresses)
}

/// Two ports that nobody listens on. The gateway takes them a moment later; whoever is faster makes the demo fail, not
/// the gateway's configuration wrong.
fn free_ports() -> Result<[SocketAddr; 2], DemoError> {
    let failed = |error| DemoError::at("a free port", error);
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed);
    let (one, other) = (bind()?, bind()?);
    Ok([one.local_addr().map_err(failed)?, other.local_addr().map_err(failed)?])
}

/// A path as a basic string of TOML 1.0.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The shipped policies, as they are: the binary shows them wherever it runs.
const POLICIES: [(&str, &str); 3] = [
    ("baseline.cedar", include_str!("../../../policies/baseline.cedar")),
    ("baseline.test.toml", include_str!("../../../policies/baseline.test.toml")),
    ("ceilings.toml", include_str!("../../../policies/ceilings.toml")),
];

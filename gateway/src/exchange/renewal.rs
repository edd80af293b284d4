//! What does a provider say of a login that was there before?
//!
//! A refresh token that a login left in, what the provider gives for it out (OpenID Connect Core §12). It keeps nothing, and
//! verifies no ID token.

use super::{Exchange, answer::Fault, endpoint::Order};
use crate::{clock::Timestamp, refusal::Refusal, secret::Secret};

/// What a provider gave for a refresh token.
#[derive(Debug)]
pub struct Renewed {
    /// In the stead of the one that was shown; where there is none, that stays good.
    pub refresh_token: Option<Secret>,
    /// Not every provider gives one again.
    pub id_token: Option<Secret>,
}

impl Exchange {
    /// What the provider at which users of `issuer` log in gives for the refresh token of a login.
    ///
    /// # Errors
    /// [`Refusal::LoginFailed`] where it says that the person has to log in anew, or may not; [`Refusal::LoginUnavailable`]
    /// where it says anything else, or nothing.
    pub async fn renewed(&self, issuer: &str, token: &Secret, now: Timestamp) -> Result<Renewed, Refusal> {
        let login = self.logins().and_then(|logins| logins.provider(issuer));
        let login = login.map_err(|_unknown| Refusal::LoginUnavailable(format!("no login of `{issuer}`")))?;
        let order = Order::Refresh { token: token.clone() };
        // No scopes: those of the login (RFC 6749 §6).
        match Box::pin(login.ask(&order, &[], now)).await {
            Ok(given) => Ok(Renewed { refresh_token: given.refresh_token, id_token: given.id_token }),
            Err(Fault::NeedsLogin(_, why)) => Err(Refusal::LoginFailed(why)),
            Err(fault) if ENDED.iter().any(|code| fault.says(code)) => Err(Refusal::LoginFailed(why(fault))),
            Err(fault) => Err(Refusal::LoginUnavailable(why(fault))),
        }
    }
}

fn why(fault: Fault) -> String {
    match fault {
        Fault::Refused(why) | Fault::NeedsLogin(_, why) | Fault::Unusable(why) => why,
    }
}

/// What a provider says where a login has ended, or the person has to be there (RFC 6749 §5.2; OpenID Connect Core
/// §3.1.2.6, RFC 9470 §5). All else is about the gateway.
const ENDED: [&str; 6] = [
    "invalid_grant",
    "access_denied",
    "insufficient_user_authentication",
    "interaction_required",
    "consent_required",
    "login_required",
];

//! Who carries out steps: services that are named, or whose URL a definition tells.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use clap::Args;
use onewrite::{
    BoxFuture, Code, Error, Result,
    http::{HttpParticipantOptions, HttpParticipants, dtm},
    saga::{Call, Checked, Ended, Hold, Participant, is_url},
};

use crate::saga::naming;

/// Who carries out steps.
#[derive(Debug, Args)]
pub(crate) struct ParticipantArgs {
    /// A service that carries out steps: an action `bank` is asked at its URL, `bank.charge` at URL/charge.
    /// May be given several times.
    #[arg(long, value_name = "NAME=URL")]
    pub(crate) participant: Vec<String>,
    /// What a participant is shown: its name and the environment variable that holds the bearer token. May be
    /// given several times.
    #[arg(long, value_name = "NAME=VARIABLE")]
    pub(crate) credential: Vec<String>,
    /// Allow the participants named here to be in private and loopback address ranges.
    #[arg(long)]
    pub(crate) allow_private: bool,
    /// Allow the URLs of definitions to lead into private and loopback address ranges: whoever may start a saga can
    /// reach there what this process can.
    #[arg(long)]
    pub(crate) allow_private_urls: bool,
}

/// The services that carry out steps.
pub(crate) struct Services {
    /// Those that the server is told.
    named: BTreeMap<String, Service>,
    /// Those that definitions tell: whoever may start a saga must not choose what else this machine can reach.
    theirs: HttpParticipants,
    /// Those that were asked for lately: each attempt asks for one.
    known: RwLock<HashMap<String, Arc<dyn Participant>>>,
}

/// Participants that are known at most.
const KNOWN_MAX: usize = 1_024;

struct Service {
    url: String,
    http: HttpParticipants,
}

impl Services {
    /// Reads who carries out steps.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for what cannot be read, [`Code::PrivateAddress`] for an address that may not be
    /// reached.
    pub(crate) fn new(args: &ParticipantArgs, url: Option<&str>) -> Result<Self> {
        let public_url = url.map(public_url).transpose()?;
        let http = |allow_private, headers| {
            HttpParticipants::new(&HttpParticipantOptions {
                allow_private,
                headers,
                public_url: public_url.clone(),
            })
        };
        let mut shown = credentials(&args.credential)?;
        let mut named = BTreeMap::new();
        for text in &args.participant {
            let (name, url) = named_url(text)?;
            let http = http(args.allow_private, shown.remove(&name).into_iter().collect())?;
            http.at(&url)?;
            if named.insert(name.clone(), Service { url, http }).is_some() {
                let what = format!("the participant `{}` is named twice", name.escape_debug());
                return Err(Error::new(Code::InvalidConfig, what));
            }
        }
        if let Some(name) = shown.keys().next() {
            let what = format!(
                "there is a credential for `{}`, which is no participant",
                name.escape_debug()
            );
            return Err(Error::new(Code::InvalidConfig, what));
        }
        let theirs = http(args.allow_private_urls, Vec::new())?;
        Ok(Self { named, theirs, known: RwLock::default() })
    }

    /// Whoever carries out the steps of this name, if they are known: a URL is its own, a name is looked up; of
    /// `bank.charge` the first part is a service, and what follows stands behind its URL.
    pub(crate) fn at(&self, name: &str) -> Option<Result<Arc<dyn Participant>>> {
        if let Some(known) = self.known_at(name) {
            return Some(Ok(known));
        }
        let found = self.look_up(name)?;
        if let Ok(found) = &found {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(name.to_owned(), Arc::clone(found));
        }
        Some(found)
    }

    fn known_at(&self, name: &str) -> Option<Arc<dyn Participant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn look_up(&self, name: &str) -> Option<Result<Arc<dyn Participant>>> {
        if let Some(url) = name.strip_prefix(dtm::SCHEME) {
            return Some(self.theirs.dtm_at(url));
        }
        if is_url(name) {
            return Some(self.theirs.at(name));
        }
        if let Some(Service { url, http }) = self.named.get(name) {
            return Some(http.at(url));
        }
        let (service, rest) = name.split_once('.')?;
        let Service { url, http } = self.named.get(service)?;
        Some(http.at(&format!("{}/{}", url.trim_end_matches('/'), rest.replace('.', "/"))))
    }

    /// Whether to hold this participant would hold any of those named here, or something behind its name.
    pub(super) fn knows(&self, participant: &str) -> bool {
        let mut named = self.named.iter();
        named.any(|(name, Service { url, .. })| {
            Hold::would_cover(participant, name)
                || Hold::would_cover(participant, url)
                || Hold::would_cover(name, participant)
        })
    }

    /// As [`Self::at`]; where an address may not be reached, that is the answer.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Participant>> {
        match self.at(name)? {
            Ok(participant) => Some(participant),
            // Another process may be permitted what this one is not.
            Err(error) => Some(Arc::new(move |_: Call| -> BoxFuture<'static, Ended> {
                let why = Ended::NotMade(error.to_string().into());
                Box::pin(std::future::ready(why))
            })),
        }
    }

    /// Refuses a definition whose steps nobody could carry out from here.
    pub(super) fn check(&self, checked: &Checked) -> Result<()> {
        for name in naming::participants(checked) {
            if self.known_at(name).is_some() {
                continue;
            }
            self.look_up(name).ok_or_else(|| {
                let service = name.split('.').next().unwrap_or(name);
                let what = format!("no participant `{service}` is known here, and `{name}` is to be asked: name it with --participant {service}=URL, or give a URL in the definition");
                let cure = "Correct the name in the definition, or name the participant where this program is started: `--participant NAME=URL`.";
                Error::new(Code::UnknownParticipant, what).with_cure(cure)
            })??;
        }
        Ok(())
    }
}

/// Reads `NAME=URL`.
fn named_url(text: &str) -> Result<(String, String)> {
    let invalid = |what: String| Err(Error::new(Code::InvalidConfig, what));
    let Some((name, url)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        // It may hold what is secret.
        return invalid("a participant is given as NAME=URL".into());
    };
    let name = name.to_owned();
    if name.contains('.') {
        return invalid(format!(
            "the participant `{}` has a dot in its name: what stands behind a dot is a path of its URL",
            name.escape_debug()
        ));
    }
    if url.contains(['?', '#', '@']) {
        return invalid(format!(
            "the URL of `{}` has a query, a fragment, a user or a password",
            name.escape_debug()
        ));
    }
    Ok((name, url.to_owned()))
}

/// Reads `NAME=VARIABLE`, and what the variables hold: the header that each service is shown.
fn credentials(all: &[String]) -> Result<BTreeMap<String, (String, String)>> {
    let invalid = |what: String| Err(Error::new(Code::InvalidConfig, what));
    let mut shown = BTreeMap::new();
    for text in all {
        let named = text
            .split_once('=')
            .filter(|(name, variable)| !name.is_empty() && !variable.is_empty());
        // What was given may be the token itself.
        let Some((name, variable)) = named else {
            return invalid("a credential is given as NAME=VARIABLE".into());
        };
        let Ok(token) = std::env::var(variable) else {
            return invalid(format!("the environment variable {variable} holds no token"));
        };
        let header = ("authorization".to_owned(), format!("Bearer {}", token.trim()));
        if shown.insert(name.to_owned(), header).is_some() {
            return invalid(format!("there are two credentials for `{}`", name.escape_debug()));
        }
    }
    Ok(shown)
}

/// Where participants reach this server.
fn public_url(url: &str) -> Result<String> {
    let is_http = url.starts_with("http://") || url.starts_with("https://");
    if !is_http || url.contains(['?', '#', '@']) {
        let what = "--public-url is a URL of http or https without a query, a user or a password";
        return Err(Error::new(Code::InvalidConfig, what));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

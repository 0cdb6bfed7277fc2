//! Who carries out steps: services that are named, or whose URL a definition tells.

use std::{collections::BTreeMap, sync::Arc};

use onewrite::{
    BoxFuture, Code, Error, Result,
    http::{HttpParticipantOptions, HttpParticipants},
    saga::{Call, Checked, Ended, Participant, is_url},
};

/// The services that carry out steps.
pub(crate) struct Services {
    /// Those that the server is told, and those that definitions tell: whoever may start a saga must not choose
    /// what else this machine can reach.
    ours: HttpParticipants,
    theirs: HttpParticipants,
    named: BTreeMap<String, String>,
}

impl Services {
    /// Reads `NAME=URL`.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for what cannot be read, [`Code::PrivateAddress`] for an address that may not be
    /// reached.
    pub(crate) fn new(named: &[String], ours: bool, theirs: bool) -> Result<Self> {
        let http = |allow_private| {
            let options = HttpParticipantOptions { allow_private, ..Default::default() };
            HttpParticipants::new(&options)
        };
        let named_by = |text: &String| named_url(text);
        let all = named.iter().map(named_by).collect::<Result<Vec<_>>>()?;
        let services = Self { ours: http(ours)?, theirs: http(theirs)?, named: BTreeMap::new() };
        let mut named = BTreeMap::new();
        for (name, url) in all {
            services.ours.at(&url)?;
            if named.insert(name.clone(), url).is_some() {
                let what = format!("the participant `{}` is named twice", name.escape_debug());
                return Err(Error::new(Code::InvalidConfig, what));
            }
        }
        Ok(Self { named, ..services })
    }

    /// Where a participant is: a URL is its own, a name is looked up; of `bank.charge` the first part is a service,
    /// and what follows stands behind its URL.
    fn url(&self, name: &str) -> Option<String> {
        if is_url(name) {
            return Some(name.to_owned());
        }
        if let Some(url) = self.named.get(name) {
            return Some(url.clone());
        }
        let (service, rest) = name.split_once('.')?;
        let base = self.named.get(service)?;
        Some(format!("{}/{}", base.trim_end_matches('/'), rest.replace('.', "/")))
    }

    fn at(&self, name: &str, url: &str) -> Result<Arc<dyn Participant>> {
        if is_url(name) { self.theirs.at(url) } else { self.ours.at(url) }
    }

    /// Whoever carries out the steps of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Participant>> {
        match self.at(name, &self.url(name)?) {
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
        let names = checked.steps().iter().flat_map(|step| {
            [Some(step.action()).filter(|_| step.wait.is_none()), step.compensated_by()]
        });
        for name in names.flatten() {
            let url = self.url(name).ok_or_else(|| {
                let what = format!("no participant `{name}` is known here: name it with --participant {name}=URL, or give its URL as the action");
                Error::new(Code::UnknownParticipant, what)
            })?;
            self.at(name, &url)?;
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

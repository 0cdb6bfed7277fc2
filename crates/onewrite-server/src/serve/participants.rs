//! Who carries out steps: services that are named, or whose URL a definition tells.

use std::{collections::BTreeMap, sync::Arc};

use onewrite::{
    BoxFuture, Code, Error, Result,
    http::{HttpParticipantOptions, HttpParticipants},
    saga::{Call, Checked, Ended, Participant, is_url},
};

/// The services that carry out steps.
pub(crate) struct Services {
    http: HttpParticipants,
    named: BTreeMap<String, String>,
}

impl Services {
    /// Reads `NAME=URL`.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] for what cannot be read, [`Code::PrivateAddress`] for an address that may not be
    /// reached.
    pub(crate) fn new(named: &[String], allow_private: bool) -> Result<Self> {
        let options = HttpParticipantOptions { allow_private, ..HttpParticipantOptions::default() };
        let http = HttpParticipants::new(&options)?;
        let mut services = Self { http, named: BTreeMap::new() };
        for text in named {
            let (name, url) = text.split_once('=').ok_or_else(|| {
                let what = format!("`{}` is not NAME=URL", text.escape_debug());
                Error::new(Code::InvalidConfig, what)
            })?;
            services.http.at(url)?;
            services.named.insert(name.to_owned(), url.to_owned());
        }
        Ok(services)
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

    /// Whoever carries out the steps of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Participant>> {
        match self.http.at(&self.url(name)?) {
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
        let steps = checked.steps().iter().filter(|step| step.wait.is_none());
        let names = steps.flat_map(|step| [Some(step.action()), step.compensated_by()]);
        for name in names.flatten() {
            let url = self.url(name).ok_or_else(|| {
                let what = format!("no participant `{name}` is known here: name it with --participant {name}=URL, or give its URL as the action");
                Error::new(Code::UnknownParticipant, what)
            })?;
            self.http.at(&url)?;
        }
        Ok(())
    }
}

//! One request to one address: signing, connecting, and what a failure means.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use onewrite_core::{Code, Error, Result};
use reqwest::{
    Client, Method, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};

use crate::{
    HttpSinkOptions, Secret,
    address::{self, PublicOnly},
    feed::now_seconds,
    signature,
};

/// The largest reply read, in bytes: receipts of a large batch with reasons.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long connecting may take at most; less when the request may take less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses that stand for one receiver.
pub(crate) struct Targets {
    client: Client,
    urls: Vec<Url>,
    secrets: Vec<Secret>,
    headers: HeaderMap,
}

/// What is sent, whichever address it goes to.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) query: Vec<(&'static str, String)>,
    /// The id it is signed under.
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// The address that answered, fit for a message.
    pub(crate) from: String,
}

pub(crate) struct Failed {
    /// Whether the request certainly did not leave.
    pub(crate) unsent: bool,
    pub(crate) error: Error,
}

impl Targets {
    pub(crate) fn new(options: HttpSinkOptions) -> Result<Self> {
        if options.urls.is_empty() {
            return Err(invalid("an HTTP sink needs a URL"));
        }
        let urls: Vec<Url> =
            options.urls.iter().map(|url| parse(url, "an HTTP sink")).collect::<Result<_>>()?;
        if !options.allow_private {
            urls.iter()
                .try_for_each(|url| address::check_host(url.host_str().unwrap_or_default()))?;
        }
        let is_secure = urls.iter().any(|url| url.scheme() == "https");
        let client = client(is_secure, options.allow_private, Some(options.timeout))?;
        Ok(Self { client, urls, secrets: options.secrets, headers: fixed(&options.headers)? })
    }

    pub(crate) fn len(&self) -> usize {
        self.urls.len()
    }

    /// Sends `request` to the address at `index` and reads the whole reply.
    pub(crate) async fn send(&self, index: usize, request: &Request) -> Result<Reply, Failed> {
        let mut url = self.urls[index].clone();
        let from = shown(&url);
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut headers = self.headers.clone();
        headers.extend(request.headers.clone());
        let built = self.client.request(request.method.clone(), url).headers(headers);
        let built = self.signed(built, request).body(request.body.clone());
        let mut response = built.send().await.map_err(|error| failed(&from, error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&from, error))? {
            if body.len() + chunk.len() > REPLY_BYTES_MAX {
                let error = Error::new(Code::SinkUnreachable, format!("{from}: a reply too large"));
                return Err(Failed { unsent: false, error });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body: body.into(), from })
    }

    fn signed(&self, built: reqwest::RequestBuilder, request: &Request) -> reqwest::RequestBuilder {
        if self.secrets.is_empty() {
            return built;
        }
        let now = now_seconds();
        let signature = signature::sign(&self.secrets, &request.id, now, &request.body);
        built
            .header(signature::ID, &request.id)
            .header(signature::TIMESTAMP, now)
            .header(signature::SIGNATURE, signature)
    }
}

/// A client that follows no redirects and uses no proxies, and reaches private addresses only where allowed.
pub(crate) fn client(
    is_secure: bool,
    allow_private: bool,
    timeout: Option<Duration>,
) -> Result<Client> {
    let mut client = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT))
        // Reading the machine's certificates can fail where there are none to need.
        .tls_built_in_root_certs(is_secure);
    if let Some(timeout) = timeout {
        client = client.timeout(timeout);
    }
    if !allow_private {
        client = client.dns_resolver(Arc::new(PublicOnly));
    }
    client.build().map_err(|error| invalid("the HTTP client cannot be made").with_source(error))
}

fn invalid(context: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, context)
}

/// The URL itself stays out of the message: it may hold a password.
pub(crate) fn parse(url: &str, of: &str) -> Result<Url> {
    let url: Url =
        url.parse().map_err(|_| invalid(format!("the URL of {of} cannot be read as a URL")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        let what = format!("the URL of {of} begins with http:// or https:// and a host");
        return Err(invalid(what));
    }
    Ok(url)
}

/// A URL fit for a message: without user, password, query and fragment.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// The headers of every request. Those that requests set themselves are refused.
pub(crate) fn fixed(headers: &[(String, String)]) -> Result<HeaderMap> {
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let unusable = |why: &str| invalid(format!("header `{}` {why}", name.escape_debug()));
        let name: HeaderName =
            name.parse().map_err(|_| unusable("has a name that no header has"))?;
        let reserved = ["content-type", "content-length", "transfer-encoding", "host"];
        if reserved.contains(&name.as_str())
            || name.as_str().starts_with("ce-")
            || name.as_str().starts_with("webhook-")
        {
            return Err(unusable("is set by each request"));
        }
        let mut value: HeaderValue =
            value.parse().map_err(|_| unusable("has a value that no header has"))?;
        value.set_sensitive(true);
        out.append(name, value);
    }
    Ok(out)
}

pub(crate) fn failed(from: &str, error: reqwest::Error) -> Failed {
    let unsent = error.is_connect();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(private) = error.downcast_ref::<Error>() {
            let error = Error::new(private.code(), format!("{from}: {}", private.context()));
            return Failed { unsent, error };
        }
        cause = error.source();
    }
    let context = if unsent {
        format!("{from} cannot be connected to")
    } else if error.is_timeout() {
        format!("{from} did not answer in time")
    } else {
        format!("{from} did not answer")
    };
    // The error's own text would name the whole URL.
    let error = Error::new(Code::SinkUnreachable, context).with_source(error.without_url());
    Failed { unsent, error }
}

//! Posts each value to the URL of `config.url`, with the record's idempotency key, and emits what the
//! service answers.
//!
//! With `config.follow` it follows one redirect. `config.timeout-ms` bounds each wait.

use std::time::Duration;

use millstream_sdk::http;
use millstream_sdk::prelude::*;

struct CallsService {
    url: String,
    follow: bool,
    timeout: Option<Duration>,
}

millstream_sdk::stateless_consumer!(type CallsService);

impl StatelessConsumer for CallsService {
    fn open(config: &Config) -> Result<Self, Failure> {
        let timeout_ms: Option<u64> = config.value("timeout-ms")?;
        Ok(Self {
            url: config.require("url")?,
            follow: config.value_or("follow", false)?,
            timeout: timeout_ms.map(Duration::from_millis),
        })
    }

    fn process(&mut self, record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
        let mut answer = self.call(&self.url, record)?;
        if let (true, 300..400, Some(location)) =
            (self.follow, answer.status(), answer.header("location"))
        {
            answer = self.call(location, record)?;
        }
        out.emit(answer.success()?.body());
        Ok(())
    }
}

impl CallsService {
    fn call(&self, url: &str, record: Record<'_>) -> Result<http::Response, http::Error> {
        let mut request = http::post(url, record.value()).idempotent(record);
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        request.send()
    }
}

#[cfg(test)]
mod tests {
    use millstream_sdk::testing::{Harness, Input};

    use super::*;

    #[test]
    fn a_redirect_is_followed_once_if_asked_for() {
        let answers = |request: &http::Request| {
            Ok(match request.url() {
                "http://old/" => {
                    http::Response::new(307, "").with_header("Location", "http://new/")
                }
                _ => http::Response::new(200, request.body_bytes()),
            })
        };
        let harness = Harness::new().config("url", "http://old/").http(answers);
        let mut follows = harness
            .config("follow", true)
            .stateless_consumer::<CallsService>()
            .unwrap();
        assert_eq!(follows.process([Input::value("a")]).values(), ["a"]);
        let harness = Harness::new().config("url", "http://old/").http(answers);
        let mut stays = harness.stateless_consumer::<CallsService>().unwrap();
        assert_eq!(stays.process([Input::value("a")]).failures.len(), 1);
    }
}

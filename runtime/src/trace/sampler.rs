//! Which traces are exported: `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

use super::{Error, TraceContext};

/// Which traces are exported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Whether a trace that has begun elsewhere is exported if it is there.
    follows_parent: bool,
    /// The part of the other traces that is exported, 0 to 1.
    ratio: f64,
}

impl Default for Sampler {
    /// OpenTelemetry's default.
    fn default() -> Self {
        Self {
            follows_parent: true,
            ratio: 1.0,
        }
    }
}

impl Sampler {
    /// The sampler of this name, with this argument.
    ///
    /// # Errors
    /// [`Error::Sampler`]: there is none, or it does not take the argument.
    pub fn named(name: &str, argument: Option<&str>) -> Result<Self, Error> {
        let (follows_parent, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let wrong = |what: String| Error::Sampler { what };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let argument = argument.unwrap_or("1.0");
                let ratio = argument.parse().ok();
                ratio
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
                    .ok_or_else(|| {
                        wrong(format!("OTEL_TRACES_SAMPLER_ARG is `{argument}`; expected a number from 0 to 1, such as 0.1"))
                    })?
            }
            _ => {
                return Err(wrong(format!(
                    "OTEL_TRACES_SAMPLER is `{name}`; expected `always_on`, `always_off` or `traceidratio`, or one of these behind `parentbased_`"
                )));
            }
        };
        Ok(Self {
            follows_parent,
            ratio,
        })
    }

    /// Whether to export what continues a trace.
    pub(super) fn samples(&self, parent: &TraceContext) -> bool {
        match self.follows_parent {
            true => parent.is_sampled(),
            false => self.samples_id(parent.trace_id()),
        }
    }

    /// Whether to export a trace that begins here.
    pub(super) fn samples_root(&self, trace_id: [u8; 16]) -> bool {
        self.samples_id(trace_id)
    }

    /// As OpenTelemetry's SDKs decide, so that services agree on a trace.
    fn samples_id(&self, trace_id: [u8; 16]) -> bool {
        if self.ratio >= 1.0 {
            return true;
        }
        let low = trace_id.last_chunk::<8>().copied().unwrap_or_default();
        let bound = (self.ratio * (1u64 << 63) as f64) as u64;
        u64::from_be_bytes(low) >> 1 < bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(is_sampled: bool) -> TraceContext {
        let flags = u8::from(is_sampled);
        let header = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags:02}");
        TraceContext::parse(header.as_bytes()).unwrap()
    }

    #[test]
    fn a_parent_decides_if_it_is_followed() {
        for (name, sampled, not_sampled, root) in [
            ("always_on", true, true, true),
            ("always_off", false, false, false),
            ("parentbased_always_on", true, false, true),
            ("parentbased_always_off", true, false, false),
        ] {
            let sampler = Sampler::named(name, None).unwrap();
            assert_eq!(sampler.samples(&context(true)), sampled, "{name}");
            assert_eq!(sampler.samples(&context(false)), not_sampled, "{name}");
            assert_eq!(sampler.samples_root([7; 16]), root, "{name}");
        }
    }

    #[test]
    fn a_ratio_samples_its_part() {
        let sampler = Sampler::named("parentbased_traceidratio", Some("0.25")).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let ids = (0..10_000).map(|_| random.u128(..).to_be_bytes());
        let sampled = ids.filter(|id| sampler.samples_root(*id)).count();
        assert!((2_200..2_800).contains(&sampled), "{sampled}");
    }

    #[test]
    fn what_is_no_sampler_is_named() {
        let wrong = Sampler::named("jaeger_remote", None).unwrap_err();
        assert!(wrong.to_string().contains("expected `always_on`"));
        for argument in ["2", "-1", "x", "NaN"] {
            let wrong = Sampler::named("traceidratio", Some(argument)).unwrap_err();
            assert!(wrong.to_string().contains("from 0 to 1"), "{argument}");
        }
    }
}

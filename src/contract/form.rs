//! The forms of a policy's input and result, one of which each policy is written for.

use regorus::Value;

use crate::contract::decision::{Decision, DecisionError, Phase};
use crate::contract::envoy::{self, EnvoyInputBuilder};
use crate::contract::input::{Facts, InputBuilder};
use crate::contract::reads::Reads;

/// What a policy is written for (`contract` of a policy).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contract {
    /// The gateway's own.
    #[default]
    GatewayV1,
    /// That of opa-envoy-plugin.
    EnvoyV3,
}

/// Builds a policy's inputs.
#[derive(Debug)]
pub enum Inputs {
    /// `gateway/v1`.
    Gateway(InputBuilder),
    /// `envoy/v3`.
    Envoy(Box<EnvoyInputBuilder>),
}

// === impl Contract ===

impl Contract {
    /// A builder of the inputs that `reads` covers.
    pub fn inputs(self, reads: &Reads) -> Inputs {
        match self {
            Self::GatewayV1 => Inputs::Gateway(InputBuilder::new(reads)),
            Self::EnvoyV3 => Inputs::Envoy(Box::new(EnvoyInputBuilder::new(reads))),
        }
    }

    /// What a result means.
    pub fn parse(self, result: &Value, phase: Phase) -> Result<Decision, DecisionError> {
        match self {
            Self::GatewayV1 => Decision::parse(result, phase),
            Self::EnvoyV3 => envoy::parse(result),
        }
    }

    /// Whether `reads` covers the decoded query.
    pub fn reads_query(self, reads: &Reads) -> bool {
        match self {
            Self::GatewayV1 => reads.at(&["request", "query"]).any(),
            Self::EnvoyV3 => {
                reads.key("parsed_query").any() || reads.at(&["gateway", "request", "query"]).any()
            }
        }
    }
}

// === impl Inputs ===

impl Inputs {
    /// Whether the policy can read the request's body, which is then buffered whole or refused.
    pub fn needs_body(&self) -> bool {
        match self {
            Self::Gateway(builder) => builder.needs_body(),
            Self::Envoy(builder) => builder.needs_body(),
        }
    }

    /// The input document for `facts`.
    pub fn build(&self, facts: &Facts<'_>) -> Value {
        match self {
            Self::Gateway(builder) => builder.build(facts),
            Self::Envoy(builder) => builder.build(facts),
        }
    }
}

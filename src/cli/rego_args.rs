//! Which Rego the files of a command are written in.

use crate::rego::v0::RegoVersion;

/// How policies are read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct RegoArgs {
    /// Read files as Rego v0 where no manifest says otherwise.
    #[arg(long)]
    pub v0_compatible: bool,
}

impl RegoArgs {
    /// The Rego of files of which no manifest speaks.
    pub fn version(self) -> RegoVersion {
        if self.v0_compatible { RegoVersion::V0 } else { RegoVersion::V1 }
    }
}

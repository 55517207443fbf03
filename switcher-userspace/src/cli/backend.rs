//! `switcher backend drain` and `switcher backend resume`

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use switcher_common::service::Color;

use super::{
    answer::Answer,
    arguments::color,
    change::{TermsArgs, Words, body, send},
};
use crate::api::{
    client::Client,
    requests::{DrainBackendRequest, Endpoint, ResumeBackendRequest},
};

/// Arguments of `switcher backend`.
#[derive(Debug, Args)]
pub(super) struct BackendArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give a backend no fresh flows any more; the ones that it has go on
    Drain {
        #[command(flatten)]
        backend: Named,

        /// Also when the active color cannot serve without it
        #[arg(long)]
        force: bool,
    },
    /// Give a backend fresh flows again
    Resume {
        #[command(flatten)]
        backend: Named,
    },
}

/// Which backend.
#[derive(Debug, Args)]
struct Named {
    /// The service
    service: String,

    /// The color that the backend serves
    #[arg(value_parser = color())]
    color: Color,

    /// Its address and port; IPv6 in brackets
    #[arg(value_name = "ADDR:PORT")]
    address: SocketAddr,

    #[command(flatten)]
    terms: TermsArgs,
}

impl Named {
    const fn endpoint(&self) -> Endpoint {
        Endpoint {
            color: self.color,
            address: self.address,
        }
    }
}

pub(super) async fn run(args: &BackendArgs, client: &Client) -> Answer {
    match &args.verb {
        Verb::Drain { backend, force } => {
            let words = Words {
                done: "drained: it gets no fresh flows",
                would: "drain it",
            };
            let services = [backend.service.clone()];
            let body = body!(DrainBackendRequest {
                services, backend.terms,
                backend: backend.endpoint(),
                force: *force,
            });
            send(&body, words, client).await
        }
        Verb::Resume { backend } => {
            let words = Words {
                done: "resumed: it gets fresh flows",
                would: "resume it",
            };
            let services = [backend.service.clone()];
            let body = body!(ResumeBackendRequest {
                services, backend.terms,
                backend: backend.endpoint(),
            });
            send(&body, words, client).await
        }
    }
}

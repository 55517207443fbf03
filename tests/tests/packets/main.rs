//! Frames through the really loaded program (`BPF_PROG_TEST_RUN`), inside the node of a lab: each
//! step's verdict, reasons, bytes and flow entries. What frames become is built by etherparse, with
//! all checksums computed in full.

mod crowd;
mod describe;
mod directions;
mod flows;
mod fragment;
mod message;
mod packet;
mod rig;
mod setup;

mod talk;

mod alone;
mod apply;
mod broken;
mod chance;
mod closing;
mod collect;
mod collect_reads;
mod collect_traffic;
mod cut;
mod echo;
mod ejected;
mod explain;
mod extension_headers;
mod forwarding;
mod fragments;
mod handshake;
mod hop;
mod icmp;
mod interfaces;
mod list;
mod listeners;
mod not_ours;
mod numbers;
mod own_errors;
mod pauses;
mod receipt;
mod regressions;
mod removed;
mod replies;
mod reports;
mod rewriting;
mod scale;
mod sources;
mod split;
mod stack;
mod switching;
mod tables;
mod trace;
mod unfinished;
mod verifier;
mod vlan;

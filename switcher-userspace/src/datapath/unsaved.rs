//! What the disk does not have yet of the switch state: bytes of the agent's, beside the state that they
//! belong to. The kernel keeps them when the agent dies, and forgets them with the state.
//!
//! Each of the two inner maps of the switch state has a range of its own, so one store makes the state and
//! its bytes current.

use std::os::fd::AsFd as _;

use aya::maps::{Array, MapData};

use super::{
    bpf,
    error::{Attempt as _, DataPathError},
    pins::PinDir,
};
use crate::config::Limits;

/// The map's name.
pub(super) const NAME: &str = "UNSAVED";

/// Bytes of an element.
const PIECE: usize = 4_096;
/// Bytes for each service that there may be.
pub(crate) const KEPT_BYTES_PER_SERVICE: usize = 2_560;
/// The first bytes tell how many follow.
const HEAD: usize = size_of::<u64>();

type Piece = [u8; PIECE];

/// The map.
pub(super) struct Unsaved {
    map: Array<MapData, Piece>,
    /// The same map, for the batch calls.
    raw: MapData,
    /// Elements of each of the two ranges.
    pieces: u32,
    /// Which ranges hold nothing.
    is_clear: [bool; 2],
    /// For [`Self::write`]: a flip waits for it, and memory that was used before is at hand.
    buffer: Vec<u8>,
}

/// Number and size of the map's elements.
pub(super) fn shape(limits: &Limits) -> (u32, u32) {
    let bytes = HEAD + limits.services as usize * KEPT_BYTES_PER_SERVICE;
    // The limit of services keeps this far below 2^32.
    let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX / 2);
    (2 * pieces, bpf::size_u32::<Piece>())
}

impl Unsaved {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataPathError> {
        let map: Array<MapData, Piece> = pins.open(NAME)?;
        let mut unsaved = Self {
            pieces: map.len() / 2,
            map,
            raw: pins.open_data(NAME)?,
            is_clear: [false; 2],
            buffer: Vec::new(),
        };
        unsaved.is_clear = [unsaved.len(0)? == 0, unsaved.len(1)? == 0];
        Ok(unsaved)
    }

    fn len(&self, which: usize) -> Result<usize, DataPathError> {
        let piece = self.piece(which, 0)?;
        let mut head = [0; HEAD];
        head.copy_from_slice(&piece[..HEAD]);
        Ok(usize::try_from(u64::from_ne_bytes(head)).unwrap_or(0))
    }

    fn piece(&self, which: usize, at: u32) -> Result<Piece, DataPathError> {
        let index = u32::from(which == 1) * self.pieces + at;
        (self.map.get(&index, 0)).attempt(format!("reading the map {NAME}"))
    }

    /// Reads what belongs to the inner map `which`.
    pub(super) fn read(&self, which: usize) -> Result<Vec<u8>, DataPathError> {
        let len = self.len(which)?;
        let pieces = u32::try_from((HEAD + len).div_ceil(PIECE)).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        for at in 0..pieces.min(self.pieces) {
            bytes.extend(self.piece(which, at)?);
        }
        bytes.drain(..HEAD.min(bytes.len()));
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Writes what belongs to the inner map `which`. Bytes that have no room are an error, and change
    /// nothing.
    pub(super) fn write(&mut self, which: usize, bytes: &[u8]) -> Result<(), DataPathError> {
        if bytes.is_empty() && self.is_clear[which] {
            return Ok(());
        }
        let room = self.pieces as usize * PIECE - HEAD;
        if bytes.len() > room {
            return Err(DataPathError::Kernel {
                attempt: format!("keeping {} bytes in the map {NAME}", bytes.len()),
                found: format!("it has room for {room}"),
            });
        }
        self.buffer.clear();
        let head = (bytes.len() as u64).to_ne_bytes();
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(bytes);
        let whole = self.buffer.len().next_multiple_of(PIECE);
        self.buffer.resize(whole, 0);
        let (pieces, _) = self.buffer.as_chunks::<PIECE>();
        let first = u32::from(which == 1) * self.pieces;
        let keys: Vec<u32> = (first..).take(pieces.len()).collect();
        self.is_clear[which] = false;
        bpf::update_batch(self.raw.fd().as_fd(), &keys, pieces)
            .attempt(format!("writing the map {NAME}"))?;
        self.is_clear[which] = bytes.is_empty();
        Ok(())
    }
}

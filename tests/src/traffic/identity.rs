//! Who answered, and the messages of the echo protocol that say so.

use anyhow::{Context, Result, bail};
use switcher_common::service::Color;

/// A backend, as its answers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The color that it serves.
    pub color: Color,
    /// Its number within the color, from 0.
    pub backend: u32,
}

/// Length of a question in bytes: its number, big endian.
pub(super) const QUESTION: usize = 8;
/// Length of an answer in bytes: the question, then the backend's tag, big endian.
pub(super) const ANSWER: usize = 16;

impl Identity {
    /// The number that stands for this backend in an echo answer.
    #[must_use]
    pub fn tag(self) -> u64 {
        u64::from(self.color as u8) << 32 | u64::from(self.backend)
    }

    /// The backend of a tag; a tag that no server sends is an error.
    pub fn from_tag(tag: u64) -> Result<Self> {
        let (high, low) = (tag >> 32, tag & u64::from(u32::MAX));
        let Some(color) = Color::ALL
            .into_iter()
            .find(|&color| u64::from(color as u8) == high)
        else {
            bail!("an answer with the unknown tag {tag:#x}");
        };
        Ok(Self {
            color,
            backend: u32::try_from(low)?,
        })
    }

    /// The backend of the headers `x-color` and `x-backend`.
    pub(super) fn from_names(color: &str, backend: &str) -> Result<Self> {
        let found = Color::ALL.into_iter().find(|it| it.name() == color);
        let color = found.with_context(|| format!("an answer of the unknown color {color}"))?;
        let backend = backend
            .parse()
            .with_context(|| format!("backend {backend}"))?;
        Ok(Self { color, backend })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} backend {}", self.color.name(), self.backend)
    }
}

/// The answer of `identity` to a question.
pub(super) fn answer(question: [u8; QUESTION], identity: Identity) -> [u8; ANSWER] {
    let mut bytes = [0; ANSWER];
    bytes[..QUESTION].copy_from_slice(&question);
    bytes[QUESTION..].copy_from_slice(&identity.tag().to_be_bytes());
    bytes
}

/// The number of the question and the backend of an answer.
pub(super) fn read_answer(bytes: [u8; ANSWER]) -> Result<(u64, Identity)> {
    let half = |from: usize| {
        let bytes = bytes.iter().skip(from).take(QUESTION);
        bytes.fold(0_u64, |all, &byte| all << 8 | u64::from(byte))
    };
    let (number, tag) = (half(0), half(QUESTION));
    Ok((number, Identity::from_tag(tag)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_its_question_and_its_backend() -> Result<()> {
        let identity = Identity {
            color: Color::Green,
            backend: 7,
        };
        let bytes = answer(41_u64.to_be_bytes(), identity);
        assert_eq!(read_answer(bytes)?, (41, identity));
        assert!(read_answer([0xff; ANSWER]).is_err());
        Ok(())
    }
}

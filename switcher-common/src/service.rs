//! Services, listeners, backends: what is switched, as the maps hold it.

use bytemuck::{Pod, Zeroable};

/// One of the two versions of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "user", serde(rename_all = "lowercase"))]
#[repr(u8)]
pub enum Color {
    /// Blue.
    Blue = 0,
    /// Green.
    Green = 1,
}

impl Color {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Blue, Self::Green];

    /// The color of a byte from a map; only the lowest bit counts, so every byte is a color.
    #[inline(always)]
    #[must_use]
    pub const fn from_bit(byte: u8) -> Self {
        if byte & 1 == 0 { Self::Blue } else { Self::Green }
    }

    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// `blue` or `green`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

/// A pair of values, one for each color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
pub struct PerColor<T> {
    /// Blue's.
    pub blue: T,
    /// Green's.
    pub green: T,
}

impl<T> PerColor<T> {
    /// The value of `color`.
    pub const fn get(&self, color: Color) -> &T {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The value of `color`, to change.
    pub const fn get_mut(&mut self, color: Color) -> &mut T {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    /// Both values from one function.
    pub fn from_fn(mut value: impl FnMut(Color) -> T) -> Self {
        Self {
            blue: value(Color::Blue),
            green: value(Color::Green),
        }
    }
}

/// Transport protocols that a listener can have; the numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "user", serde(rename_all = "lowercase"))]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
}

//! Families of generic netlink: they get their numbers when the kernel starts.

use std::io;

use netlink_packet_generic::{
    GenlMessage,
    ctrl::{
        GenlCtrl, GenlCtrlCmd,
        nlas::{GenlCtrlAttrs, McastGrpAttrs},
    },
};

use super::Netlink;

/// A family of generic netlink.
pub(crate) struct Family {
    pub(crate) id: u16,
    groups: Vec<(String, u32)>,
}

impl Family {
    /// The family `name`; `None`: the kernel has none of that name.
    pub(crate) fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Self>> {
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
        });
        let answer = match netlink.get(request) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            answer => answer?.payload,
        };
        let mut id = None;
        let mut groups = Vec::new();
        for attribute in answer.nlas {
            match attribute {
                GenlCtrlAttrs::FamilyId(number) => id = Some(number),
                GenlCtrlAttrs::McastGroups(all) => {
                    groups = all.iter().filter_map(|group| group_of(group)).collect();
                }
                _ => {}
            }
        }
        let nameless =
            || io::Error::other(format!("the kernel's answer names no family id for {name}"));
        id.ok_or_else(nameless).map(|id| Some(Self { id, groups }))
    }

    /// Number of the multicast group `name`.
    pub(crate) fn group(&self, name: &str) -> Option<u32> {
        let mut groups = self.groups.iter();
        groups.find(|(it, _)| it == name).map(|(_, id)| *id)
    }
}

fn group_of(attributes: &[McastGrpAttrs]) -> Option<(String, u32)> {
    let name = attributes.iter().find_map(|it| match it {
        McastGrpAttrs::Name(name) => Some(name.clone()),
        McastGrpAttrs::Id(_) => None,
    });
    let id = attributes.iter().find_map(|it| match it {
        McastGrpAttrs::Id(id) => Some(*id),
        McastGrpAttrs::Name(_) => None,
    });
    Some((name?, id?))
}

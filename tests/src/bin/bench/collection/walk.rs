//! The floor of a scan: the kernel's walk over the same table, by a program that only looks at each element.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::Iter,
};
use switcher_tests::bpf::iterate;

use crate::object::OBJECT;

/// Visits of a read: about as many as one of the switcher's scans comes to.
const VISITS: u64 = 512;

/// The loaded program.
pub(super) struct Walk {
    ebpf: Ebpf,
    /// Of the table.
    table: MapData,
}

impl Walk {
    /// Over `table`, one of IPv4 flows.
    pub(super) fn over(table: MapData) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load(OBJECT)
            .context("loading the bench's object")?;
        let btf = Btf::from_sys_fs().context("reading the kernel's BTF")?;
        iterator(&mut ebpf)?
            .load("bpf_map_elem", &btf)
            .context("loading the iterator walk4")?;
        Ok(Self { ebpf, table })
    }

    /// Goes through the whole table, which has so many entries.
    pub(super) fn through(&mut self, entries: u64) -> Result<()> {
        self.words()?.set(0, [VISITS, 0, 0, 0], 0)?;
        let program = iterator(&mut self.ebpf)?.fd()?.try_clone()?;
        iterate(program.as_fd(), self.table.fd().as_fd())
            .context("walking through a flow table")?;
        let [_, _, seen, _] = self.words()?.get(&0, 0)?;
        ensure!(
            seen == entries,
            "a walk through a table of {entries} entries saw {seen}"
        );
        Ok(())
    }

    /// `Walk` of the program.
    fn words(&mut self) -> Result<Array<&mut MapData, [u64; 4]>> {
        let map = self.ebpf.map_mut("WALK").context("no map WALK")?;
        Ok(map.try_into()?)
    }
}

fn iterator(ebpf: &mut Ebpf) -> Result<&mut Iter> {
    let program = ebpf.program_mut("walk4");
    Ok(program
        .context("the object has no program walk4")?
        .try_into()?)
}

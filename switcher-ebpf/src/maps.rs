//! Every map of the program. The sizes here are placeholders: the agent sets them at load.
//!
//! Who writes what: the flow tables, counters and what was heard belong to the program, all others to the agent.

use aya_ebpf::{
    bindings::BPF_F_INNER_MAP,
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use switcher_common::{
    ProgramSlot,
    address::{Ipv4, Ipv6},
    cut::CutOrder,
    filter::FILTER_WORDS,
    flow::{FlowEntry, FlowKey},
    heard::Heard,
    hop::HopWatch,
    interface::InterfaceRecord,
    packet::{FragmentKey, FragmentPorts},
    rate::{Capped, Window},
    reason::REASON_SLOTS,
    scan::{BackendFlows, IdleTicks, ScanRequest, ScanTotals},
    send_error::SEND_ERRORS as SEND_ERROR_COUNTERS,
    service::{BackendRecord, EndpointEditions, ListenerKey, ListenerRecord, ServiceSwitch},
    stats::{ColorStats, TableStats},
};

use crate::{outlined::Outlined, work::HasWork};

const INNER: usize = BPF_F_INNER_MAP as usize;

/// The programs that the dispatchers and the first of them jump to, by [`switcher_common::ProgramSlot`].
#[btf_map]
pub(crate) static PROGRAMS: ProgramArray<{ ProgramSlot::ALL.len() }> = ProgramArray::new();

/// Slot 0: the switch state of all services, by service id. Replacing it is the flip.
#[btf_map]
pub(crate) static SWITCH: ArrayOfMaps<Array<ServiceSwitch, 16, INNER>, 1> = ArrayOfMaps::new();

/// Slot 0: all listeners, by listener id. Replacing it is the apply.
#[btf_map]
pub(crate) static CONFIG: ArrayOfMaps<Array<ListenerRecord, 16, INNER>, 1> = ArrayOfMaps::new();

/// Listener ids, and under [`ListenerKey::any_of`] each VIP's
/// [`switcher_common::service::VipMarks`].
#[btf_map]
pub(crate) static LISTENERS: HashMap<ListenerKey, u32, 16> = HashMap::new();

/// Slots of all Maglev tables: backend ids.
#[btf_map]
pub(crate) static MAGLEV: Array<u32, 16> = Array::new();

/// Backends, by id.
#[btf_map]
pub(crate) static BACKENDS: Array<BackendRecord, 16> = Array::new();

/// Whose replies come from which endpoint.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<ListenerKey, EndpointEditions, 16> = HashMap::new();

/// Orders to cut flows, by backend id.
#[btf_map]
pub(crate) static CUTS: Array<CutOrder, 16> = Array::new();

/// What was heard of backends in handshakes, by id.
#[btf_map]
pub(crate) static HEARD: Array<Heard, 16> = Array::new();

/// Bitmap of our addresses.
#[btf_map]
pub(crate) static FILTER: Array<u64, { FILTER_WORDS as usize }> = Array::new();

/// The node's interfaces, by index.
#[btf_map]
pub(crate) static INTERFACES: Array<InterfaceRecord, 16> = Array::new();

/// What the agent says of the hops that flows keep.
#[btf_map]
pub(crate) static HOP_WATCH: Array<HopWatch, 1> = Array::new();
/// Link addresses of interfaces, as hops leave by them, by index: the last byte but one is 1 where one is known.
#[btf_map]
pub(crate) static HOP_SOURCES: Array<u64, 16> = Array::new();

/// The node's own addresses, under [`ListenerKey::any_of`]. Only that they are there matters.
#[btf_map]
pub(crate) static NODE_ADDRESSES: HashMap<ListenerKey, u32, 16> = HashMap::new();

/// IPv4 flows whose backend has answered.
#[btf_map]
pub(crate) static ESTABLISHED4: HashMap<FlowKey<Ipv4>, FlowEntry<Ipv4>, 16> = HashMap::new();
/// IPv6 flows whose backend has answered.
#[btf_map]
pub(crate) static ESTABLISHED6: HashMap<FlowKey<Ipv6>, FlowEntry<Ipv6>, 16> = HashMap::new();
/// IPv4 flows whose backend has not answered yet.
#[btf_map]
pub(crate) static UNANSWERED4: LruHashMap<FlowKey<Ipv4>, FlowEntry<Ipv4>, 16> = LruHashMap::new();
/// IPv6 flows whose backend has not answered yet.
#[btf_map]
pub(crate) static UNANSWERED6: LruHashMap<FlowKey<Ipv6>, FlowEntry<Ipv6>, 16> = LruHashMap::new();

/// Ports of first fragments, IPv4.
#[btf_map]
static FRAGMENTS4: LruHashMap<FragmentKey<Ipv4>, FragmentPorts, 16> = LruHashMap::new();
/// Ports of first fragments, IPv6.
#[btf_map]
static FRAGMENTS6: LruHashMap<FragmentKey<Ipv6>, FragmentPorts, 16> = LruHashMap::new();

/// IPv4 flows that this CPU has established, for its sweep.
#[btf_map]
static RING4: PerCpuArray<FlowKey<Ipv4>, 16> = PerCpuArray::new();
/// IPv6 flows that this CPU has established, for its sweep.
#[btf_map]
static RING6: PerCpuArray<FlowKey<Ipv6>, 16> = PerCpuArray::new();
/// Where each ring's sweep is: IPv4, IPv6.
#[btf_map]
static HANDS: PerCpuArray<u32, 2> = PerCpuArray::new();

/// How often each [`Capped`] may happen in a window, per CPU.
#[btf_map]
pub(crate) static RATE_BUDGETS: Array<u32, { Capped::LEN as usize }> = Array::new();
/// How often it has happened.
#[btf_map]
pub(crate) static RATE_WINDOWS: PerCpuArray<Window, { Capped::LEN as usize }> = PerCpuArray::new();

/// Entries that came and went, by [`TableStats::index`].
#[btf_map]
pub(crate) static TABLE_STATS: PerCpuArray<TableStats, { TableStats::LEN as usize }> =
    PerCpuArray::new();
/// Packets by reason.
#[btf_map]
pub(crate) static VERDICTS: PerCpuArray<u64, { REASON_SLOTS as usize }> = PerCpuArray::new();
/// Traffic by service and color.
#[btf_map]
pub(crate) static TRAFFIC: PerCpuArray<ColorStats, 16> = PerCpuArray::new();
/// Tick of the newest log line, by reason.
#[btf_map]
pub(crate) static LOGGED: PerCpuArray<u32, { REASON_SLOTS as usize }> = PerCpuArray::new();

/// Frames lost after a verdict, by [`switcher_common::send_error::SendError`].
#[btf_map]
pub(crate) static SEND_ERRORS: PerCpuArray<u64, { SEND_ERROR_COUNTERS as usize }> =
    PerCpuArray::new();

/// What the running scan is to do.
#[btf_map]
pub(crate) static SCAN_REQUEST: Array<ScanRequest, 1> = Array::new();
/// What the running scan has seen.
#[btf_map]
pub(crate) static SCAN_TOTALS: Array<ScanTotals, 1> = Array::new();
/// Live flows by [`switcher_common::scan::live_index`].
#[btf_map]
pub(crate) static SCAN_LIVE: Array<u64, 16> = Array::new();
/// Flows, previews' left out, that were in flight until a scan found them silent for too long, since the
/// data path was loaded, by [`ColorStats::index`]. Apart from [`TRAFFIC`]: packets interrupt a scan.
#[btf_map]
pub(crate) static SCAN_ENDED: Array<u64, 16> = Array::new();
/// Flows by backend id.
#[btf_map]
pub(crate) static SCAN_BACKENDS: Array<BackendFlows, 16> = Array::new();
/// Idle timeouts, by service id.
#[btf_map]
pub(crate) static IDLE: Array<IdleTicks, 16> = Array::new();

/// An address family's flow tables.
pub(crate) trait Tables: HasWork + Outlined {
    /// Flows whose backend has answered: a plain hash map, which never evicts.
    fn established() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>, 16>;
    /// Flows whose backend has not answered yet: an LRU, which a flood may turn over.
    fn unanswered() -> &'static LruHashMap<FlowKey<Self>, FlowEntry<Self>, 16>;
    /// Ports of first fragments: an LRU.
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts, 16>;
    /// Flows that this CPU has established.
    fn ring() -> &'static PerCpuArray<FlowKey<Self>, 16>;
    /// Where its sweep is.
    fn hand() -> Option<*mut u32>;
}

impl Tables for Ipv4 {
    #[inline(always)]
    fn established() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>, 16> {
        &ESTABLISHED4
    }
    #[inline(always)]
    fn unanswered() -> &'static LruHashMap<FlowKey<Self>, FlowEntry<Self>, 16> {
        &UNANSWERED4
    }
    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts, 16> {
        &FRAGMENTS4
    }
    #[inline(always)]
    fn ring() -> &'static PerCpuArray<FlowKey<Self>, 16> {
        &RING4
    }
    #[inline(always)]
    fn hand() -> Option<*mut u32> {
        HANDS.get_ptr_mut(0)
    }
}

impl Tables for Ipv6 {
    #[inline(always)]
    fn established() -> &'static HashMap<FlowKey<Self>, FlowEntry<Self>, 16> {
        &ESTABLISHED6
    }
    #[inline(always)]
    fn unanswered() -> &'static LruHashMap<FlowKey<Self>, FlowEntry<Self>, 16> {
        &UNANSWERED6
    }
    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts, 16> {
        &FRAGMENTS6
    }
    #[inline(always)]
    fn ring() -> &'static PerCpuArray<FlowKey<Self>, 16> {
        &RING6
    }
    #[inline(always)]
    fn hand() -> Option<*mut u32> {
        HANDS.get_ptr_mut(1)
    }
}

//! Limits of what goes through a link (`include/uapi/linux/pkt_sched.h`, `pkt_cls.h`).

use super::codec::{CREATE, REPLACE, Request};

const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// `TC_LINKLAYER_ETHERNET`: no table of rates is needed.
const ETHERNET: u8 = 1;
/// `ETH_P_ALL` in network byte order, with priority 1.
const ALL_PROTOCOLS: u32 = 1 << 16 | 0x0300;
const STOLEN: u32 = 4;
const REDIRECT_OUT: u32 = 1;

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    header
}

/// Limits what a link sends: a token bucket. The rate is in bytes per second; `burst` bytes may pass
/// at once, and `queue` bytes may wait.
pub(crate) fn limit(index: u32, rate: u64, burst: u32, queue: u32) -> Request {
    let mut parms = [0; 36];
    parms[1] = ETHERNET;
    let low = u32::try_from(rate).unwrap_or(u32::MAX);
    parms[8..12].copy_from_slice(&low.to_ne_bytes());
    parms[24..28].copy_from_slice(&queue.to_ne_bytes());
    Request::new("limit a link's rate", NEW_QDISC, CREATE | REPLACE)
        .raw(&header(index, 0, ROOT, 0))
        .text(KIND, "tbf")
        .nest(OPTIONS, |o| {
            let o = o.attr(1, &parms).u32(6, burst);
            if rate > u64::from(u32::MAX) {
                return o.attr(4, &rate.to_ne_bytes());
            }
            o
        })
}

/// Lets what comes in by a link be redirected.
pub(crate) fn ingress(index: u32) -> Request {
    Request::new("redirect a link's packets", NEW_QDISC, CREATE | REPLACE)
        .raw(&header(index, INGRESS_HANDLE, INGRESS, 0))
        .text(KIND, "ingress")
}

/// Sends everything that comes in by a link through another one first.
pub(crate) fn redirect(index: u32, through: u32) -> Request {
    // One key that matches everything.
    let mut selector = [0; 32];
    selector[0] = 1;
    selector[2] = 1;
    let mut mirred = [0; 28];
    mirred[8..12].copy_from_slice(&STOLEN.to_ne_bytes());
    mirred[20..24].copy_from_slice(&REDIRECT_OUT.to_ne_bytes());
    mirred[24..28].copy_from_slice(&through.to_ne_bytes());
    // A certain handle (800::800), so that a second time replaces the first.
    Request::new("redirect a link's packets", NEW_FILTER, CREATE | REPLACE)
        .raw(&header(index, 0x8000_0800, INGRESS_HANDLE, ALL_PROTOCOLS))
        .text(KIND, "u32")
        .nest(OPTIONS, |o| {
            o.attr(5, &selector).nest(7, |actions| {
                actions.nest(1, |action| {
                    action.text(1, "mirred").nest(2, |o| o.attr(2, &mirred))
                })
            })
        })
}

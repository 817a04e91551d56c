//! Names and GUIDs that follow from text.

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Call;
use crate::template::error::TemplateResult;
use crate::template::scope::{Part, not_expected_here};

fn joined(call: &Call<'_, '_, '_>) -> TemplateResult<String> {
    call.arity(1, usize::MAX)?;
    let parts = (0..call.args.len())
        .map(|index| call.text(index))
        .collect::<TemplateResult<Vec<_>>>()?;
    Ok(parts.join("-"))
}

/// `uniqueString`: Azure's own result. The arguments, joined with `-`, go through a 64 bit
/// relative of MurmurHash3 and come out as 13 characters of base 32.
///
/// The algorithm is not documented; it is known from the published packages of Resource
/// Manager and agrees with the published values in the tests, made by those packages and by
/// real deployments.
pub(super) fn unique_string(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    Ok(Value::String(base32(murmur64(joined(call)?.as_bytes()))))
}

const C1: u32 = 0x239b_961b;
const C2: u32 = 0xab0e_9789;

/// The hash behind `uniqueString`: the first two lanes of the 32 bit MurmurHash3.
fn murmur64(data: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
    };
    let mix1 = |k: u32| k.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mix2 = |k: u32| k.wrapping_mul(C2).rotate_left(17).wrapping_mul(C1);
    let (mut h1, mut h2) = (0_u32, 0_u32);
    let blocks = data.chunks_exact(8);
    let tail = blocks.remainder();
    for block in blocks {
        h1 ^= mix1(word(&block[..4]));
        h1 = h1
            .rotate_left(19)
            .wrapping_add(h2)
            .wrapping_mul(5)
            .wrapping_add(0x561c_cd1b);
        h2 ^= mix2(word(&block[4..]));
        h2 = h2
            .rotate_left(13)
            .wrapping_add(h1)
            .wrapping_mul(5)
            .wrapping_add(0x0bca_a747);
    }
    if !tail.is_empty() {
        h1 ^= mix1(word(&tail[..tail.len().min(4)]));
    }
    if tail.len() > 4 {
        h2 ^= mix2(word(&tail[4..]));
    }
    // The length is counted modulo 2^32, like every number here.
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(0);
    h1 ^= length;
    h2 ^= length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = avalanche(h1);
    h2 = avalanche(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (u64::from(h2) << 32) | u64::from(h1)
}

fn avalanche(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

fn base32(hash: u64) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // 13 digits of five bits need 65: the last digit gets a zero at its end.
    let bits = u128::from(hash) << 1;
    (0..13)
        .rev()
        .map(|digit| char::from(ALPHABET[usize::try_from((bits >> (5 * digit)) & 31).unwrap_or(0)]))
        .collect()
}

/// The namespace of Resource Manager's `guid`.
const NAMESPACE: Uuid = Uuid::from_u128(0x11fb_06fb_712d_4ddd_98c7_e71b_bd58_8830);

/// `guid`: a name-based UUID (RFC 9562, version 5) of the arguments joined with `-`.
pub(super) fn guid(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    let mut data = NAMESPACE.as_bytes().to_vec();
    data.extend_from_slice(joined(call)?.as_bytes());
    let hash = sha1(&data);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    let guid = uuid::Builder::from_sha1_bytes(bytes).into_uuid();
    Ok(Value::String(guid.to_string()))
}

/// `newGuid`: from the seed of the evaluation and the number of the call.
pub(super) fn new_guid(call: &Call<'_, '_, '_>) -> TemplateResult<Value> {
    call.arity(0, 0)?;
    if call.frame.part != Part::Default {
        return Err(not_expected_here(call.name));
    }
    let context = call.evaluator.context;
    let count = call.evaluator.guids.get();
    call.evaluator.guids.set(count + 1);
    let mut hash = Sha256::new();
    match context.seed {
        Some(seed) => hash.update(seed.to_be_bytes()),
        None => {
            let since = context
                .now
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let place = &call.frame.scope.place;
            hash.update(since.as_nanos().to_be_bytes());
            for part in [
                &place.subscription_id,
                &place.resource_group,
                &place.deployment,
            ] {
                hash.update(part.as_bytes());
                hash.update([0]);
            }
        }
    }
    hash.update(count.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Ok(Value::String(
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string(),
    ))
}

/// SHA-1 (FIPS 180-4), which version 5 UUIDs are made of. Nothing here relies on its strength.
fn sha1(data: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut message = data.to_vec();
    let bits = u64::try_from(data.len())
        .unwrap_or(u64::MAX)
        .wrapping_mul(8);
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&bits.to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for index in 16..80 {
            words[index] =
                (words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16])
                    .rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (index, word) in words.iter().enumerate() {
            let (f, k) = match index {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(f)
                .wrapping_add(e)
                .wrapping_add(k)
                .wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut hash = [0; 20];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(text: &str) -> String {
        base32(murmur64(text.as_bytes()))
    }

    #[test]
    fn unique_string_agrees_with_azure() {
        assert_eq!(murmur64(b"hello-world"), 571_013_382_255_652_050);
        for (text, result) in [
            ("tyeth", "zcztcwvu6iyg6"),
            ("hello-world", "a7wkljktk6wne"),
            ("test", "rbgf3xv4ufgzg"),
            ("abc", "cgtzqvhu4i23s"),
            ("foo-bar-baz", "xzi4ioaxtmth4"),
            (
                "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg",
                "bmg7c6xu4tw46",
            ),
            (
                "/subscriptions/3c7f956b-55ee-4686-9d30-da1eb631dc59/resourceGroups/rg-devopsshieldek010dev",
                "fd63l2gacbtca",
            ),
            (
                "/subscriptions/31e9f9a0-9fd2-4294-a0a3-0101246d9700/resourceGroups/rg-modm201-20230913120256/providers/Microsoft.Compute/virtualMachines/bobjacmodm201",
                "yvjxno3je5on2",
            ),
        ] {
            assert_eq!(unique(text), result, "{text}");
        }
    }

    #[test]
    fn sha1_agrees_with_fips() {
        let hex = |hash: [u8; 20]| {
            hash.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(sha1(b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(sha1(
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
            )),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1"
        );
        assert_eq!(hex(sha1(b"")), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }
}

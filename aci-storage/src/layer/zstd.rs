//! Zstandard (RFC 8878) for layers: any number of frames, with skippable ones between them, as
//! `zstd:chunked` images have.
//!
//! Decoded by `ruzstd`, which is Rust: what it reads comes from strangers.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Largest window that a frame may ask for, in bytes: as much as the `zstd` program takes without
/// being told otherwise (window logarithm 27), and the most memory that a layer's decoder holds.
const MAX_WINDOW: u64 = 128 << 20;

/// A reader of what the frames hold.
pub(super) struct Decoder<R> {
    source: R,
    frames: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(source: R) -> Self {
        let mut frames = FrameDecoder::new();
        frames.set_max_window_size(MAX_WINDOW);
        Self {
            source,
            frames,
            within: false,
        }
    }

    /// Begins the next frame; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.frames.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let wanted = u64::from(length);
                    let passed = io::copy(&mut (&mut self.source).take(wanted), &mut io::sink())?;
                    if passed != wanted {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
    }
}

fn damaged(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !buf.is_empty() {
            if !self.within {
                if !self.begin()? {
                    return Ok(0);
                }
                self.within = true;
            }
            while self.frames.can_collect() == 0 && !self.frames.is_finished() {
                self.frames
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(damaged)?;
            }
            let n = self.frames.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            // Whether the content is right is told by the layer's digest.
            self.within = false;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    fn frame(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    fn skippable(length: u32) -> Vec<u8> {
        let mut bytes = 0x184D_2A50_u32.to_le_bytes().to_vec();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes
    }

    #[test]
    fn frames_follow_each_other_with_others_between() {
        let parts: [&[u8]; 3] = [b"one", &[7; 400_000], b""];
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend(frame(part));
            bytes.extend(skippable(3));
            bytes.extend(b"toc");
        }
        assert_eq!(read(&bytes).unwrap(), parts.concat());
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_off_or_too_wide_is_an_error() {
        let whole = frame(&vec![b'x'; 300_000]);
        for cut in 1..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{cut} of {}", whole.len());
        }
        assert!(read(&[whole.clone(), skippable(9)].concat()).is_err());
        assert!(read(&[whole, b"junk".to_vec()].concat()).is_err());
        // A window of 1 GiB (exponent 20, mantissa 0).
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0, 20 << 3, 1, 0, 0];
        let error = read(&wide).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    proptest! {
        #[test]
        fn any_content_comes_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..5),
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| frame(part)).collect();
            prop_assert_eq!(read(&bytes).unwrap(), parts.concat());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read(&[&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat());
        }
    }
}

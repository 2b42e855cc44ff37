//! The envelope of every stored record: a version, a checksum and the body.
//!
//! The checksum covers the table, the row's key, the version and the body, or what stands for parts of it. So a flipped bit is noticed, and so is a
//! record that was moved to another row. Eight bytes against accidents of the medium, which one in 2^64 survives; they
//! are no defence against somebody who can write to the disk and compute hashes. What the body means is not known
//! here, and neither is what to do about damage.

use thiserror::Error;

use crate::{
    digest::{Digest, Domain},
    store::Table,
};

/// Version of the envelope written by [`seal`].
pub const RECORD_VERSION: u8 = 1;

/// Bytes that [`seal`] puts before a body: version (1) and checksum (8).
pub const ENVELOPE_BYTES: usize = 1 + 8;

/// Why a record is not what was sealed for its row. It is to be treated as missing, never to be served or sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordDamage {
    /// Too short for an envelope.
    #[error("the record has {actual_bytes} bytes, fewer than its envelope of {ENVELOPE_BYTES}")]
    TooShort {
        /// Its length.
        actual_bytes: usize,
    },
    /// Made by a later version of this program, or the first byte is damaged.
    #[error("the record has version {version}; this program knows {RECORD_VERSION}")]
    UnknownVersion {
        /// Its first byte.
        version: u8,
    },
    /// The bytes are not those that were sealed, or they were sealed for another row.
    #[error("the checksum of the record is wrong")]
    ChecksumWrong,
}

/// The record of `body` for the row `row_key` of `table`: version (1 byte) ‖ checksum (8) ‖ body.
pub fn seal(table: Table, row_key: &[u8], body: &[u8]) -> Vec<u8> {
    seal_over(table, row_key, &[body], &[body])
}

/// The same for a body in parts, whose checksum is over `covered` in place of them: all of the body must follow from it, as a
/// part does from its digest.
pub fn seal_over(table: Table, row_key: &[u8], covered: &[&[u8]], body: &[&[u8]]) -> Vec<u8> {
    let mut record = Vec::with_capacity(ENVELOPE_BYTES + body.iter().map(|part| part.len()).sum::<usize>());
    record.push(RECORD_VERSION);
    record.extend_from_slice(&checksum(table, row_key, covered));
    body.iter().for_each(|part| record.extend_from_slice(part));
    record
}

/// The body that was sealed into `record` for the row `row_key` of `table`.
pub fn open<'a>(table: Table, row_key: &[u8], record: &'a [u8]) -> Result<&'a [u8], RecordDamage> {
    let body = record.get(ENVELOPE_BYTES..).unwrap_or_default();
    open_over(table, row_key, record, &[body])
}

/// The body that was sealed by [`seal_over`], if `covered` is what was covered.
pub fn open_over<'a>(
    table: Table,
    row_key: &[u8],
    record: &'a [u8],
    covered: &[&[u8]],
) -> Result<&'a [u8], RecordDamage> {
    let Some((&[version, ref sealed @ ..], body)) = record.split_first_chunk::<ENVELOPE_BYTES>() else {
        return Err(RecordDamage::TooShort { actual_bytes: record.len() });
    };
    if version != RECORD_VERSION {
        return Err(RecordDamage::UnknownVersion { version });
    }
    if *sealed != checksum(table, row_key, covered) {
        return Err(RecordDamage::ChecksumWrong);
    }
    Ok(body)
}

/// First eight bytes of the digest over everything that a record is bound to.
fn checksum(table: Table, row_key: &[u8], covered: &[&[u8]]) -> [u8; 8] {
    let place = [RECORD_VERSION, table.number()];
    let row_key_bytes = (row_key.len() as u64).to_be_bytes();
    let bound: [&[u8]; 3] = [&place, &row_key_bytes, row_key];
    let parts = [&bound, covered].concat();
    Digest::of(Domain::Record, &parts).to_u64().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_body_comes_back_from_its_own_row() {
        for body in [&b""[..], b"x", &[7; 5_000]] {
            let record = seal(Table::Objects, b"row", body);
            assert_eq!(record.len(), ENVELOPE_BYTES + body.len());
            assert_eq!(open(Table::Objects, b"row", &record), Ok(body));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = seal(Table::Objects, b"row", b"the body");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Table::Objects, b"row", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_and_an_added_byte_are_noticed() {
        let mut record = seal(Table::Objects, b"row", b"the body");
        for length in 0..record.len() {
            assert!(open(Table::Objects, b"row", &record[..length]).is_err(), "{length} bytes");
        }
        record.push(0);
        assert_eq!(open(Table::Objects, b"row", &record), Err(RecordDamage::ChecksumWrong));
    }

    #[test]
    fn a_record_in_another_row_or_table_is_noticed() {
        let record = seal(Table::Objects, b"row", b"s body");
        assert_eq!(open(Table::Objects, b"raw", &record), Err(RecordDamage::ChecksumWrong));
        assert_eq!(open(Table::Peers, b"row", &record), Err(RecordDamage::ChecksumWrong));
        assert_eq!(open(Table::Objects, b"rows", &seal(Table::Objects, b"row", b"")), Err(RecordDamage::ChecksumWrong));
    }

    #[test]
    fn a_row_key_and_a_body_cannot_lend_each_other_bytes() {
        let mut record = seal(Table::Objects, b"ab", b"c");
        record.truncate(ENVELOPE_BYTES);
        record.extend_from_slice(b"bc");
        assert_eq!(open(Table::Objects, b"a", &record), Err(RecordDamage::ChecksumWrong));
    }

    #[test]
    fn the_layout_stays_readable_by_later_versions() {
        assert_eq!(seal(Table::Meta, b"owner", b"me"), GOLDEN);
    }

    const GOLDEN: &[u8] = &[1, 69, 159, 90, 66, 178, 41, 93, 24, b'm', b'e'];
}

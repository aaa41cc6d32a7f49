//! Rows read back what they write; damaged bytes are an error, never a panic.

use proptest::prelude::*;

use super::*;
use crate::strategies;

macro_rules! round_trips {
    ($($test:ident, $row:ident, $strategy:ident;)*) => {
        proptest! {
            #![proptest_config(strategies::config())]
            $(
                #[test]
                fn $test(row in strategies::$strategy(), wound in strategies::wound(), bytes in any::<Vec<u8>>()) {
                    let written = row.encode();
                    prop_assert_eq!($row::decode(&written), Ok(row));
                    for bytes in [wound.inflict(&written), bytes.into()] {
                        if let Ok(read) = $row::decode(&bytes) {
                            prop_assert_eq!($row::decode(&read.encode()), Ok(read));
                        }
                    }
                }
            )*
        }
    };
}

round_trips! {
    a_message_row_reads_back_what_it_writes, MessageRow, message_row;
    a_receipt_row_reads_back_what_it_writes, ReceiptRow, receipt_row;
    a_node_row_reads_back_what_it_writes, NodeRow, node_row;
    a_neighbour_row_reads_back_what_it_writes, NeighborRow, neighbor_row;
    a_key_row_reads_back_what_it_writes, KeyRow, key_row;
}

proptest! {
    #![proptest_config(strategies::config())]

    #[test]
    fn a_message_row_reads_the_same_after_any_other(row in strategies::message_row(), other in strategies::message_row()) {
        let mut names = Vec::new();
        prop_assert_eq!(MessageRow::decode_after(&other.encode(), &mut names), Ok(other));
        prop_assert_eq!(MessageRow::decode_after(&row.encode(), &mut names), Ok(row.clone()));
        prop_assert_eq!(MessageRow::decode_after(&row.encode(), &mut names), Ok(row));
    }
}

#[test]
fn an_empty_row_is_damage() {
    assert!(MessageRow::decode(&[]).is_err());
    assert!(ReceiptRow::decode(&[]).is_err());
    assert!(NodeRow::decode(&[]).is_err());
    assert!(NeighborRow::decode(&[]).is_err());
    assert!(KeyRow::decode(&[]).is_err());
}

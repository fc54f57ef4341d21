//! The code for texts in header blocks (RFC 7541, appendix B).
//!
//! Symbols whose codes are of the same length have successive codes, in the order of the symbols, and shorter codes come
//! first: so the lengths say all.

/// How many bits the code of each byte has; the last one is that of the end, which never occurs.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];
const SHORTEST: usize = 5;
const LONGEST: usize = 30;
const END: u16 = 256;

/// All codes of one length: the first of them, how many there are, and where their symbols begin.
#[derive(Clone, Copy)]
struct Codes {
    first: u32,
    count: u32,
    symbols_at: usize,
}

struct Table {
    codes: [Codes; LONGEST + 1],
    symbols: [u16; 257],
}

static TABLE: Table = table();

const fn table() -> Table {
    let mut table = Table {
        codes: [Codes {
            first: 0,
            count: 0,
            symbols_at: 0,
        }; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut code, mut at, mut length) = (0u32, 0, SHORTEST);
    while length <= LONGEST {
        code <<= 1;
        table.codes[length].first = code;
        table.codes[length].symbols_at = at;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                table.symbols[at] = symbol as u16;
                table.codes[length].count += 1;
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    table
}

/// Appends the text; `None` if it is none.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut length) = (0u32, 0);
    for &byte in coded {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            length += 1;
            if length > LONGEST {
                return None;
            }
            let codes = &TABLE.codes[length];
            let place = code.wrapping_sub(codes.first);
            if length >= SHORTEST && place < codes.count {
                match TABLE.symbols[codes.symbols_at + place as usize] {
                    END => return None,
                    symbol => out.push(symbol as u8),
                }
                (code, length) = (0, 0);
            }
        }
    }
    // What is left fills the last byte with ones.
    (length < 8 && code == (1 << length) - 1).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(coded, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn texts_are_decoded_as_rfc_7541_has_them() {
        let examples: [(&[u8], &str); 5] = [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ];
        for (coded, text) in examples {
            assert_eq!(decoded(coded).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        // The end as a symbol; padding of a whole byte; padding that is not ones.
        for coded in [&[0xff, 0xff, 0xff, 0xff][..], &[0x64, 0x02, 0xff], &[0x60]] {
            assert_eq!(decoded(coded), None, "{coded:?}");
        }
    }

    #[test]
    fn each_sequence_of_bits_begins_with_exactly_one_code() {
        let share = |length: &u8| 2f64.powi(-i32::from(*length));
        assert_eq!(LENGTHS.iter().map(share).sum::<f64>(), 1.0);
    }
}

//! What cannot be encoded or decoded fails its own call alone.

use super::*;

/// A value that serde refuses at the chosen place.
#[derive(Debug, Clone, PartialEq)]
struct Stubborn(u8);

const FINE: u8 = 0;
const NOT_SERIALIZED: u8 = 1;
const NOT_DESERIALIZED: u8 = 2;
const PANICS_IN_SERIALIZE: u8 = 3;

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            NOT_SERIALIZED => Err(serde::ser::Error::custom("I will not go")),
            PANICS_IN_SERIALIZE => panic!("I would rather panic"),
            _ => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            NOT_DESERIALIZED => Err(serde::de::Error::custom("I will not come")),
            value => Ok(Stubborn(value)),
        }
    }
}

#[test]
fn argument_or_result_that_serde_refuses_fails_alone() {
    let _alone = alone();
    let pool = pool(2);
    for bad in [NOT_SERIALIZED, NOT_DESERIALIZED] {
        let error = pool.apply(|_: Stubborn| (), Stubborn(bad)).unwrap_err();
        assert!(
            error.is_codec() && error.to_string().contains("argument"),
            "{error}"
        );
        let error = pool.apply(Stubborn, bad).unwrap_err();
        assert!(
            error.is_codec() && error.to_string().contains("result"),
            "{error}"
        );
        for chunk in [1, 10] {
            let items = (0..30).map(|n| Stubborn(if n == 13 { bad } else { FINE }));
            let results: Vec<_> = pool
                .imap(|item: Stubborn| item.0, items.clone())
                .unwrap()
                .collect();
            assert!(
                results
                    .iter()
                    .enumerate()
                    .all(|(n, result)| result.is_ok() == (n != 13)),
                "{results:?}"
            );
            let error = pool
                .map_with_chunks(|item: Stubborn| item.0, items, chunk)
                .unwrap_err();
            assert!(
                error.is_codec() && error.to_string().contains("(item 13)"),
                "{error}"
            );
            let error = pool
                .map_with_chunks(|n| Stubborn(if n == 13 { 2 } else { 0 }), 0..30, chunk)
                .unwrap_err();
            assert!(
                error.is_codec() && error.to_string().contains("(item 13)"),
                "{error}"
            );
        }
    }
    let error = pool.apply(Stubborn, PANICS_IN_SERIALIZE).unwrap_err();
    assert_eq!(error.panic_message(), Some("I would rather panic"));
    assert_eq!(pool.apply(Stubborn, FINE).unwrap(), Stubborn(FINE));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Number { value: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flattened {
    #[serde(flatten)]
    more: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LeavesOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
}

#[test]
fn what_needs_a_format_that_describes_itself_is_told_so() {
    let _alone = alone();
    let pool = pool(1);
    let flattened = Flattened {
        more: [("one".to_owned(), 1)].into(),
    };
    let errors = [
        pool.apply(|_: Untagged| (), Untagged::Text("one".into()))
            .unwrap_err(),
        pool.apply(Untagged::Number, 1).unwrap_err(),
        pool.apply(|_: Tagged| (), Tagged::Number { value: 1 })
            .unwrap_err(),
        pool.apply(|_: Flattened| (), flattened).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_codec(), "{error}");
        assert!(
            error.to_string().contains("a format that describes itself"),
            "{error}"
        );
    }
    let left_out = pool
        .apply(|_: LeavesOut| (), LeavesOut { value: None })
        .unwrap_err();
    assert!(left_out.to_string().contains("skip_serializing_if"), "{left_out}");
}

#[test]
fn iterator_that_panics_leaves_the_pool_in_order() {
    let _alone = alone();
    let pool = pool(2);
    for _ in 0..3 {
        let items = (0..1000u64).inspect(|&n| assert!(n < 500, "deliberate"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.map(square, items)));
        assert!(outcome.is_err());
        let endless = (0..).inspect(|&n| assert!(n < 50, "deliberate"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.imap(square, endless).unwrap().count()
        }));
        assert!(outcome.is_err());
    }
    assert_eq!(pool.map(square, 0..1000).unwrap().len(), 1000);
}

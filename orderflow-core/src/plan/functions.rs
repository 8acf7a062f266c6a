//! Scalar functions of our own and of the user's, beside DataFusion's.
//!
//! Invariant: a function here is immutable (same arguments, same answer, whenever it is asked) and carries a version, because
//! state that was computed with it is only valid while it answers the same.

use crate::error::{Error, Result};
use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility};
use std::sync::Arc;

/// A scalar function with the version of its meaning.
#[derive(Clone, Debug)]
pub struct Function {
    version: u32,
    udf: Arc<ScalarUDF>,
}

impl Function {
    /// `udf` as its users know it; `version` changes whenever its answers do.
    ///
    /// # Errors
    /// A function that is not [`Volatility::Immutable`].
    pub fn new(version: u32, udf: ScalarUDF) -> Result<Self> {
        if udf.signature().volatility != Volatility::Immutable {
            return Err(Error::user(format!("function '{}' is not immutable", udf.name()))
                .why("a replayed epoch must give the same output again")
                .hint("declare it Volatility::Immutable if its answer depends on its arguments alone"));
        }
        Ok(Self { version, udf: Arc::new(udf) })
    }

    /// Its name in SQL.
    pub fn name(&self) -> &str {
        self.udf.name()
    }

    /// Version of its meaning.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The function itself.
    pub fn udf(&self) -> &Arc<ScalarUDF> {
        &self.udf
    }
}

/// The functions that every catalog knows beside DataFusion's.
pub(super) fn ours() -> Vec<Function> {
    let signature = Signature::one_of(vec![TypeSignature::String(1)], Volatility::Immutable);
    vec![Function { version: 1, udf: Arc::new(ScalarUDF::new_from_impl(Slug { signature })) }]
}

/// `slug(text)`: lower case, every run of other characters than `a`–`z` and `0`–`9` becomes one `-`, ends trimmed.
/// A letter outside ASCII is an "other" character, also where its lower case is within, so that a slug fits a topic name. Null gives null.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Slug {
    signature: Signature,
}

impl ScalarUDFImpl for Slug {
    fn name(&self) -> &str {
        "slug"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        match args.args.as_slice() {
            [ColumnarValue::Scalar(value)] => Ok(ColumnarValue::Scalar(ScalarValue::Utf8(value.try_as_str().flatten().map(slug)))),
            [ColumnarValue::Array(array)] => {
                let text = arrow::compute::cast(array, &DataType::Utf8)?;
                let Some(text) = text.as_any().downcast_ref::<StringArray>() else { return exec_err!("slug takes text") };
                let mut out = StringBuilder::with_capacity(text.len(), text.value_data().len());
                // a column of few values is the rule, and looking one up costs less than making it anew
                let mut known: hashbrown::HashMap<&str, String> = hashbrown::HashMap::new();
                for value in text {
                    match value {
                        Some(v) => out.append_value(known.entry(v).or_insert_with(|| slug(v))),
                        None => out.append_null(),
                    }
                }
                Ok(ColumnarValue::Array(Arc::new(out.finish()) as ArrayRef))
            }
            _ => exec_err!("slug takes one argument"),
        }
    }
}

fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_of_other_characters_become_one_dash() {
        for (text, expected) in [
            ("Card", "card"),
            ("Internet Banking", "internet-banking"),
            ("Google PAY", "google-pay"),
            ("PAYTM", "paytm"),
            ("  A..B -- c!", "a-b-c"),
            ("Überweisung 24", "berweisung-24"),
            ("İyzico", "yzico"),
            ("\u{212A}", ""), // the Kelvin sign, which is a k in lower case
            ("日本", ""),
            ("---", ""),
            ("", ""),
        ] {
            assert_eq!(slug(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_slug_is_its_own_slug_and_fits_a_topic(text in ".*") {
            let once = slug(&text);
            prop_assert_eq!(&slug(&once), &once);
            prop_assert!(once.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            prop_assert!(!once.starts_with('-') && !once.ends_with('-') && !once.contains("--"));
        }
    }
}

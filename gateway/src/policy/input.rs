//! Which arguments can policy read, and how?
//!
//! A tool's `inputSchema` gives each argument a Cedar type, and the same type then reads the argument: policies are
//! checked against exactly what they will see. What has no Cedar type is not in `context.input` at all.
//!
//! | JSON Schema | Cedar |
//! |---|---|
//! | `string` | `String` |
//! | `integer` | `Long`; `5.0` is 5, more than 64 bits is a fault |
//! | `number` | `decimal`: at most four decimal places, no exponent; anything else is a fault |
//! | `boolean` | `Bool` |
//! | `array` of one of these | `Set`, so order and repetition are lost |
//! | `object` with `properties` | a record of those of its properties that have a type |
//! | one of these or `null` | the same type, optional |
//! | unions, `allOf`, maps, tuples, anything else | left out |
//!
//! `null` reads as absent. Members that the schema does not name are left out, as they are for the policy checker; one
//! that a lenient decoder would take for a member that policy reads is a fault.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use cedar_policy::RestrictedExpression;
use serde_json::{Map, Value, json};

use crate::rpc::{
    json::{self as tape, Kind},
    lookalike,
};

/// A Cedar type, by the JSON that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Long,
    Decimal,
    Bool,
    Set(Box<Self>),
    Record(Fields),
}

/// The attributes of a record.
pub(super) type Fields = BTreeMap<String, Field>;

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    shape: Shape,
    required: bool,
}

/// An argument that is not what the tool's schema says, or has no exact counterpart in Cedar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Names of properties, outermost first.
    pub(super) path: Vec<String>,
    /// What was expected.
    pub(super) expected: &'static str,
}

/// The type of `context.input` for a tool with this `inputSchema`.
pub(super) fn fields(input_schema: &Value) -> Fields {
    let members = input_schema.as_object();
    let mut types = Types { root: input_schema, budget: TYPES_MAX };
    members.map(|members| types.record(members, DEPTH_MAX)).unwrap_or_default()
}

/// The arguments as `context.input`; absent arguments are an empty object.
pub(super) fn read(fields: &Fields, arguments: Option<tape::Value<'_>>) -> Result<RestrictedExpression, Fault> {
    let Some(arguments) = arguments.filter(|value| !value.is_null()) else { return express_record(fields, None) };
    if !arguments.is_object() {
        return Err(Fault { path: Vec::new(), expected: "an object" });
    }
    express_record(fields, Some(arguments))
}

/// The same type in Cedar's JSON schema format.
pub(super) fn schema(fields: &Fields) -> Value {
    let attribute = |(name, field): (&String, &Field)| {
        let mut kind = shape_schema(&field.shape);
        if let (Some(members), false) = (kind.as_object_mut(), field.required) {
            members.insert("required".to_owned(), Value::Bool(false));
        }
        (name.clone(), kind)
    };
    json!({ "type": "Record", "attributes": fields.iter().map(attribute).collect::<Map<_, _>>() })
}

/// A type by its name, which Cedar's own notation then shows as it is.
pub(super) fn named(name: &str) -> Value {
    json!({ "type": "EntityOrCommon", "name": name })
}

fn shape_schema(shape: &Shape) -> Value {
    match shape {
        Shape::Text => named("String"),
        Shape::Long => named("Long"),
        Shape::Decimal => named("decimal"),
        Shape::Bool => named("Bool"),
        Shape::Set(element) => json!({ "type": "Set", "element": shape_schema(element) }),
        Shape::Record(fields) => schema(fields),
    }
}

/// Reads types from one schema.
struct Types<'a> {
    root: &'a Value,
    /// How many more may be read: references can make a short schema a large one.
    budget: usize,
}

impl<'a> Types<'a> {
    fn record(&mut self, members: &Map<String, Value>, depth: usize) -> Fields {
        let required = |name: &str| {
            let names = members.get("required").and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|other| other == name))
        };
        let properties = members.get("properties").and_then(Value::as_object);
        properties
            .into_iter()
            .flatten()
            .filter_map(|(name, property)| {
                let (shape, nullable) = self.shape(property, depth)?;
                Some((name.clone(), Field { shape, required: required(name) && !nullable }))
            })
            .collect()
    }

    /// The shape of a schema, and whether `null` is one of its values. `depth` bounds nesting and references alike.
    fn shape(&mut self, schema: &Value, depth: usize) -> Option<(Shape, bool)> {
        let depth = depth.checked_sub(1)?;
        self.budget = self.budget.checked_sub(1)?;
        let members = schema.as_object()?;
        if let Some(reference) = members.get("$ref") {
            let root: &'a Value = self.root;
            let referred = root.pointer(reference.as_str()?.strip_prefix('#')?)?;
            return self.shape(referred, depth);
        }
        if let Some(choices) = members.get("anyOf").or_else(|| members.get("oneOf")) {
            return self.or_null(choices.as_array()?, depth);
        }
        if members.contains_key("allOf") || members.contains_key("not") {
            return None;
        }
        let (kind, nullable) = kind(members)?;
        let shape = match kind {
            "string" => Shape::Text,
            "integer" => Shape::Long,
            "number" => Shape::Decimal,
            "boolean" => Shape::Bool,
            "array" => {
                let (element, element_nullable) = self.shape(members.get("items")?, depth)?;
                if element_nullable || members.contains_key("prefixItems") {
                    return None;
                }
                Shape::Set(Box::new(element))
            }
            "object" if members.contains_key("properties") => Shape::Record(self.record(members, depth)),
            _ => return None,
        };
        Some((shape, nullable))
    }

    /// `X` or `null`, the one union that Cedar can say.
    fn or_null(&mut self, choices: &[Value], depth: usize) -> Option<(Shape, bool)> {
        let null = |choice: &Value| choice.get("type").is_some_and(|kind| kind == "null");
        let mut others = choices.iter().filter(|choice| !null(choice));
        let (shape, nullable) = self.shape(others.next()?, depth)?;
        if others.next().is_some() { None } else { Some((shape, nullable || choices.iter().any(null))) }
    }
}

/// The one type besides `null`, or that of all values where only values are given.
fn kind(members: &Map<String, Value>) -> Option<(&str, bool)> {
    if let Some(kinds) = members.get("type") {
        let Some(list) = kinds.as_array() else { return Some((kinds.as_str()?, false)) };
        let mut others = list.iter().filter(|kind| *kind != "null");
        let kind = others.next()?.as_str()?;
        return if others.next().is_some() { None } else { Some((kind, list.iter().any(|kind| kind == "null"))) };
    }
    let values = match (members.get("const"), members.get("enum")) {
        (Some(value), _) => std::slice::from_ref(value),
        (None, Some(values)) => values.as_array()?.as_slice(),
        (None, None) => return None,
    };
    (!values.is_empty() && values.iter().all(Value::is_string)).then_some(("string", false))
}

fn express_record(fields: &Fields, value: Option<tape::Value<'_>>) -> Result<RestrictedExpression, Fault> {
    let mut pairs = Vec::new();
    for (name, field) in fields {
        let Some(member) = value.and_then(|value| value.get(name)).filter(|member| !member.is_null()) else { continue };
        let expression = express(&field.shape, member).map_err(|mut fault| {
            fault.path.insert(0, name.clone());
            fault
        })?;
        pairs.push((name.clone(), expression));
    }
    if let Some(name) = value.and_then(|value| imitation(fields, value)) {
        return Err(Fault { path: vec![name], expected: "spelt as in the schema" });
    }
    RestrictedExpression::new_record(pairs)
        .map_err(|_duplicate| Fault { path: Vec::new(), expected: "members without duplicates" })
}

/// A member that is no field, and that a decoder without regard to case would take for one: the upstream would run with
/// what policy did not see (I2).
fn imitation(fields: &Fields, value: tape::Value<'_>) -> Option<String> {
    let names = value.members().filter_map(|(name, _)| name.text());
    let mut unknown = names.filter(|name| !fields.contains_key(name.as_ref())).peekable();
    unknown.peek()?;
    let exact: HashSet<Cow<'_, str>> = fields.keys().map(|name| lookalike::fold(name)).collect();
    unknown.find(|name| exact.contains(&lookalike::fold(name))).map(Cow::into_owned)
}

fn express(shape: &Shape, value: tape::Value<'_>) -> Result<RestrictedExpression, Fault> {
    let fault = |expected| Fault { path: Vec::new(), expected };
    match shape {
        Shape::Text => {
            value.text().map(|text| RestrictedExpression::new_string(text.into_owned())).ok_or(fault("a string"))
        }
        Shape::Bool => value.boolean().map(RestrictedExpression::new_bool).ok_or(fault("a boolean")),
        Shape::Long => long(value).map(RestrictedExpression::new_long).ok_or(fault("an integer of 64 bits")),
        Shape::Decimal => decimal(value)
            .map(RestrictedExpression::new_decimal)
            .ok_or(fault("a number of at most four decimal places without an exponent")),
        Shape::Set(element) => {
            if value.kind() != Kind::Array {
                return Err(fault("an array"));
            }
            let elements: Result<Vec<_>, _> = value.elements().map(|inner| express(element, inner)).collect();
            Ok(RestrictedExpression::new_set(elements?))
        }
        Shape::Record(_) if !value.is_object() => Err(fault("an object")),
        Shape::Record(fields) => express_record(fields, Some(value)),
    }
}

/// JSON Schema counts `5.0` as an integer, so the upstream may.
fn long(value: tape::Value<'_>) -> Option<i64> {
    if value.kind() != Kind::Number {
        return None;
    }
    let text = value.raw_text();
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((whole, zeros)) if zeros.bytes().all(|digit| digit == b'0') => whole.parse().ok(),
        Some(_) => None,
    }
}

/// The number's own digits, because a rounded number is not the one that the upstream will see.
fn decimal(value: tape::Value<'_>) -> Option<String> {
    if value.kind() != Kind::Number {
        return None;
    }
    let text = value.raw_text();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = match fraction.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    // Cedar keeps decimals as 64-bit integers of ten-thousandths; fifteen digits always fit.
    let fits = digits(unsigned) && digits(fraction) && unsigned.len() <= WHOLE_DIGITS_MAX && fraction.len() <= 4;
    fits.then(|| format!("{whole}.{fraction}"))
}

/// Nesting of types; what lies deeper has no type.
const DEPTH_MAX: usize = 16;

/// Types of one schema; what comes after has none.
const TYPES_MAX: usize = 2_000;

/// 922,337,203,685,477.5807 is Cedar's largest decimal: fourteen whole digits always fit.
const WHOLE_DIGITS_MAX: usize = 14;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::{fields, read, schema};
    use crate::rpc::json::{Bounds, Document};

    const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 1000, name_bytes_max: 256, number_chars_max: 64 };

    fn check(property: serde_json::Value, argument: &str, expect: Result<&str, &str>) {
        let fields = fields(&json!({ "type": "object", "properties": { "x": property } }));
        let document = Document::parse(Bytes::from(format!("{{\"x\":{argument}}}")), &BOUNDS).unwrap();
        let got = read(&fields, Some(document.root()));
        let got = match &got {
            Ok(expression) => Ok(expression.as_ref().to_string()),
            Err(fault) => Err(format!("{}: {}", fault.path.join("."), fault.expected)),
        };
        assert_eq!(got.as_deref().map_err(String::as_str), expect, "{argument}");
    }

    #[test]
    fn an_argument_reads_as_the_type_that_its_schema_gives() {
        check(json!({"type": "string"}), r#""a\u0062""#, Ok(r#"{x: "ab"}"#));
        check(json!({"type": "string"}), "null", Ok("{}"));
        check(json!({"type": "string"}), "5", Err("x: a string"));
        check(json!({"type": "integer"}), "5.0", Ok(r#"{x: 5}"#));
        check(json!({"type": "integer"}), "-0", Ok(r#"{x: 0}"#));
        check(json!({"type": "integer"}), "9223372036854775808", Err("x: an integer of 64 bits"));
        check(json!({"type": "integer"}), "5e0", Err("x: an integer of 64 bits"));
        check(json!({"type": "integer"}), r#""5""#, Err("x: an integer of 64 bits"));
        check(json!({"type": "number"}), "1000.5000", Ok(r#"{x: decimal("1000.5")}"#));
        check(json!({"type": "number"}), "-7", Ok(r#"{x: decimal("-7.0")}"#));
        let places = Err("x: a number of at most four decimal places without an exponent");
        check(json!({"type": "number"}), "1000.00000000000000001", places);
        check(json!({"type": "number"}), "1e3", places);
        check(json!({"type": "number"}), "1234567890123456", places);
        check(json!({"type": ["boolean", "null"]}), "true", Ok(r#"{x: true}"#));
        check(json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), "4", Ok(r#"{x: 4}"#));
        check(json!({"type": "array", "items": {"type": "integer"}}), "[1,2]", Ok(r#"{x: [1, 2]}"#));
        check(json!({"type": "array", "items": {"type": "integer"}}), "[1,null]", Err("x: an integer of 64 bits"));
        check(json!({"enum": ["EUR", "USD"]}), r#""EUR""#, Ok(r#"{x: "EUR"}"#));
        let nested = json!({"type": "object", "properties": {"y": {"type": "boolean"}}});
        check(nested.clone(), r#"{"y":false,"z":1}"#, Ok(r#"{x: {y: false}}"#));
        check(nested.clone(), r#"{"y":1}"#, Err("x.y: a boolean"));
        check(nested, "[]", Err("x: an object"));
    }

    #[test]
    fn a_member_that_imitates_a_field_is_a_fault_at_any_depth() {
        let owner = json!({ "type": "object", "properties": { "owner": { "type": "string" } } });
        let fields = fields(&json!({ "properties": {
            "amount": { "type": "integer" }, "maxRows": { "type": "integer" }, "Ωmega": { "type": "string" },
            "filter": owner, "all": { "type": "array", "items": owner },
        } }));
        let faults = |text: &str| {
            let document = Document::parse(Bytes::from(text.to_owned()), &BOUNDS).unwrap();
            let fault = read(&fields, Some(document.root())).err()?;
            Some(format!("{}: {}", fault.path.join("."), fault.expected))
        };
        for (text, path) in [
            (r#"{"Amount":5000}"#, "Amount"),
            (r#"{"amount":1,"AMOUNT":5000}"#, "AMOUNT"),
            (r#"{"a\u006dount ":5000}"#, "amount "),
            (r#"{"Amount":null}"#, "Amount"),
            (r#"{"maxrows":5}"#, "maxrows"),
            (r#"{"ωmega":"x"}"#, "ωmega"),
            (r#"{"filter":{"owner":"me","Owner":"root"}}"#, "filter.Owner"),
            (r#"{"all":[{"owner":"me"},{"Owner":"root"}]}"#, "all.Owner"),
        ] {
            assert_eq!(faults(text), Some(format!("{path}: spelt as in the schema")), "{text}");
        }
        for text in [r#"{"amounts":5,"Rows":1,"maxRows":2,"Ωmega":"x"}"#, r#"{"filter":{"Amount":1,"owner":"me"}}"#] {
            assert_eq!(faults(text), None, "{text}");
        }
    }

    #[test]
    fn what_has_no_cedar_type_is_left_out() {
        for property in [
            json!({}),
            json!(true),
            json!({"type": "object"}),
            json!({"type": "array"}),
            json!({"type": ["string", "integer"]}),
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"allOf": [{"type": "integer"}]}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"$ref": "https://example.com/schema"}),
        ] {
            check(property, "5", Ok("{}"));
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_stays_small() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let properties: serde_json::Map<_, _> =
            names.iter().map(|name| ((*name).to_owned(), json!({ "$ref": "#" }))).collect();
        let text = schema(&fields(&json!({ "type": "object", "properties": properties }))).to_string();
        assert!(text.len() < 200_000, "{}", text.len());
    }

    #[test]
    fn references_within_the_schema_are_followed() {
        let fields = fields(&json!({
            "type": "object",
            "required": ["filter"],
            "properties": { "filter": { "$ref": "#/$defs/filter" } },
            "$defs": { "filter": { "type": "object", "properties": { "owner": { "type": "string" } } } },
        }));
        let filter = json!({ "type": "Record", "attributes": { "owner": { "type": "EntityOrCommon", "name": "String", "required": false } } });
        assert_eq!(schema(&fields), json!({ "type": "Record", "attributes": { "filter": filter } }));
    }
}

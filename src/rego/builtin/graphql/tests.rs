use proptest::prelude::*;

use super::*;

const SCHEMA: &str = r"
    schema { query: Root subscription: Sub }
    interface Named { name(upper: Boolean = false): String }
    type Person implements Named { name(upper: Boolean = false): String age: Int! friends(first: Int!): [Person!] pet: Pet }
    type Dog implements Named { name(upper: Boolean = false): String barks: Boolean age: String }
    type Cat { meows: Boolean age: Int }
    union Pet = Dog | Cat
    enum Colour { RED GREEN }
    input Filter { colour: Colour! limit: Int = 3 tags: [String!] }
    scalar Any
    directive @once on FIELD
    directive @often(n: Int) repeatable on FIELD
    type Root { person(id: ID!): Person find(filter: Filter, any: Any): [Named] me: Person }
    type Sub { a: Int b: Int }
";

#[track_caller]
fn check(query: &str, want: bool) {
    let arguments = [Value::from(query), Value::from(SCHEMA)];
    let outcome = verified(&arguments);
    assert_eq!(outcome.is_ok(), want, "{query}: {outcome:?}");
}

#[test]
fn the_prelude_and_the_schema_are_valid() {
    assert_eq!(schema_is_valid(&[Value::from("type Query { a: Int }")]), Ok(Value::from(true)));
    Schema::new(Parser::schema(SCHEMA).unwrap()).unwrap();
    assert!(Schema::new(SchemaDocument::default()).unwrap().type_named("__Schema").is_some());
}

#[test]
fn fields_and_fragments_have_to_exist_and_to_fit() {
    check("{ me { name age pet { __typename ... on Dog { barks } } } }", true);
    check("{ __schema { types { name } } __type(name: \"a\") { kind } }", true);
    check("{ nobody }", false);
    check("{ me }", false);
    check("{ me { age { x } } }", false);
    check("{ me { pet { name } } }", false);
    check("{ me { ... on Dog { barks } } }", false);
    check("{ find { ... on Dog { barks } } }", true);
    check("{ me { ...F } } fragment F on Person { age }", true);
    check("{ me { ...F } }", false);
    check("{ me { age } } fragment F on Person { age }", false);
    check("{ me { ...F } } fragment F on Person { ...G } fragment G on Person { ...F }", false);
    check("{ me { ...F } } fragment F on Person { age } fragment F on Person { name }", false);
    check("{ me { ... on Colour { x } } }", false);
    check("mutation { a }", false);
    check("subscription { a }", true);
    check("subscription { a b }", false);
    check("query A { me { age } } query A { me { age } }", false);
    check("{ me { age } } { me { age } }", false);
}

#[test]
fn arguments_values_and_variables_have_to_fit() {
    check("{ person(id: 1) { age } }", true);
    check("{ person { age } }", false);
    check("{ person(id: 1, id: 2) { age } }", false);
    check("{ person(id: 1.5) { age } }", false);
    check("{ person(id: null) { age } }", false);
    check("{ me(x: 1) { age } }", false);
    check("{ find(filter: {colour: RED, tags: \"one\"}, any: {a: [1]}) { name } }", true);
    check("{ find(filter: {colour: BLUE}) { name } }", false);
    check("{ find(filter: {limit: 1}) { name } }", false);
    check("{ find(filter: {colour: RED, colour: RED}) { name } }", false);
    check("{ find(filter: {colour: RED, size: 1}) { name } }", false);
    check("query ($a: ID!) { person(id: $a) { age } }", true);
    check("query ($a: ID) { person(id: $a) { age } }", false);
    check("query ($a: ID = 1) { person(id: $a) { age } }", true);
    check("query ($a: Int!) { person(id: $a) { age } }", false);
    check("query ($a: Int) { me { age } }", false);
    check("query ($a: Person) { person(id: $a) { age } }", false);
    check("query ($a: ID!, $a: ID!) { person(id: $a) { age } }", false);
    check("{ person(id: $a) { age } }", false);
    check("query ($n: Int!) { me { ...F } } fragment F on Person { friends(first: $n) { age } }", true);
    check("{ me { ...F } } fragment F on Person { friends(first: $n) { age } }", false);
    check("query ($b: Boolean) { me { name(upper: $b) } }", true);
    check("{ me { age @once @often @often(n: 1) } }", true);
    check("{ me { age @once @once } }", false);
    check("{ me @include(if: true) { age } }", true);
    check("{ me @include { age } }", false);
    check("query @once { me { age } }", false);
}

#[test]
fn answers_have_to_be_mergeable() {
    check("{ me { age } me { name } }", true);
    check("{ me { x: age x: name } }", false);
    check("{ a: person(id: 1) { age } a: person(id: 2) { age } }", false);
    check("{ me { pet { ... on Dog { x: barks } ... on Cat { x: meows } } } }", true);
    check("{ me { pet { ... on Dog { x: barks } ... on Cat { x: age } } } }", true);
    check("{ me { x: pet { __typename } } me { x: friends(first: 1) { name } } }", false);
    check("{ me { pet { ... on Dog { name } } } me { pet { ... on Dog { name(upper: true) } } } }", false);
}

#[test]
fn schemas_have_to_be_sound() {
    let check = |text: &str, want: bool| {
        assert_eq!(schema_is_valid(&[Value::from(text)]), Ok(Value::from(want)), "{text}");
    };
    check("type A { a: B }", false);
    check("type A { a: Int a: Int }", false);
    check("type A { __a: Int }", false);
    check("type A { a: Int } type A { b: Int }", false);
    check("interface I { a: Int } type A implements I { b: Int }", false);
    check("interface I { a: Int } type A implements I { a: Int! }", true);
    check("interface I { a(x: Int): Int } type A implements I { a(x: Int, y: Int!): Int }", false);
    check("input A { a: Int } type B { a: A }", false);
    check("type A { a: Int } input B { a: A }", false);
    check("type A { a: Int } type B { a(x: A): Int }", false);
    check("union U = Int", false);
    check("enum E { true }", false);
    check("directive @d(a: Int @d) on FIELD | ARGUMENT_DEFINITION", false);
    check("type A { a: Int @d }", false);
    check("extend type A { a: Int }", true);
    check("type A { a: Int } extend input A { b: Int }", false);
    check("schema { query: A }", false);
}

#[test]
fn trees_go_out_and_come_back_the_same() {
    let query = "query Q($a: [Int!]! = [1]) { x: f(a: {b: [1.5, \"s\", $a, E, null]}) @d { ... on T { g } ...F ... { h } } } fragment F on T { i }";
    let tree = to_value(&Parser::query(query).unwrap()).unwrap();
    assert_eq!(query_of(&tree).unwrap(), Parser::query(query).unwrap());
    let tree = to_value(&Parser::schema(SCHEMA).unwrap()).unwrap();
    assert_eq!(schema_of(&tree).unwrap(), Parser::schema(SCHEMA).unwrap());
    assert_eq!(schema_is_valid(&[tree]), Ok(Value::from(true)));
    assert!(query_of(&Value::from_json_str(r#"{"Operations": [{"SelectionSet": [{}]}]}"#).unwrap()).is_err());
    assert_eq!(is_valid(&[Value::from(1), Value::from(SCHEMA)]), Ok(Value::from(false)));
}

#[test]
fn what_grows_without_bound_is_refused() {
    let deep = format!("{}a{}", "{a".repeat(100), "}".repeat(100));
    assert!(matches!(Parser::query(&deep), Err(Failure::Refused(_))));
    let deep = format!("{{ a(x: {}) }}", "[".repeat(10_000));
    assert!(matches!(Parser::query(&deep), Err(Failure::Refused(_))));
    // Each level is compared with each other one.
    let wide = format!("{{ me {{ {} }} }}", "name ".repeat(2_000));
    assert!(matches!(verified(&[Value::from(wide), Value::from(SCHEMA)]), Err(Failure::Refused(_))));
    let mut nested = String::from("age");
    for _ in 0..30 {
        nested = format!("friends(first: 1) {{ {nested} }} friends(first: 1) {{ age }}");
    }
    let nested = format!("{{ me {{ {nested} }} }}");
    check(&nested, true);
}

proptest! {
    #[test]
    fn no_text_panics(text in "[ a-c{}()\\[\\]:@$!|&=\"#.1\\\\-]{0,40}.{0,10}") {
        for text in [text.clone(), format!("{{{text}"), format!("type A {{{text}")] {
            drop(Parser::query(&text));
            drop(Parser::schema(&text));
            drop(is_valid(&[Value::from(text.as_str()), Value::from(SCHEMA)]));
            drop(schema_is_valid(&[Value::from(text)]));
        }
    }
}

//! Arguments.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("symbolon").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn the_shapes_that_scripts_rely_on() {
    for line in [
        "identity new",
        "identity new --file id",
        "identity show --file id",
        "client add bob --public-key abcd --role signer --key release*",
        "client add bob --public-key abcd --role admin",
        "client list -o json",
        "client remove bob",
        "status -o json",
        "key create release",
        "key create release --threshold 3 --roster node1,node2,node3 --expires 2030-01-31 --tag env=prod --tag team=a",
        "key create release --expires 90d --timeout 5",
        "key list --tag env=prod",
        "key show release --version 2",
        "key rotate release --expires 2030-01-31T00:00:00Z",
        "key suspend release",
        "key resume release --version 1",
        "key revoke release --reason leaked",
        "key destroy release --confirm release",
        "key destroy release --confirm release --in 7d --version 1",
        "key destroy release --cancel",
        "key export-public release --format pem",
        "key export-public release --format jwk --version 2 --out key.jwk",
        "sign release file",
        "sign release - --format raw --out sig",
        "sign release file --format sshsig --namespace git -o json",
        "verify release file sig",
        "verify release file sig --allow-revoked",
        "verify release file sig --public-key key.pem",
        "request explain 000102030405060708090a0b0c0d0e0f",
        "bench sign --key release --clients 64 --seconds 10 -o json",
        "bench sign --key release --clients 1 --seconds 1 --messages 4",
        "bench keygen --count 20 --threshold 3 --keep",
        "completions bash",
        "man",
        "man --dir pages",
        "help errors",
        "help key create",
        "help",
        "-o json --genesis g --identity i --endpoints a:1,b:2 status",
        "status --genesis g --identity i --endpoints a:1,b:2 -o table",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|error| error.to_string()));
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    for line in [
        "",
        "key",
        "key create",
        "key create a*b",
        "key create release --expires tomorrow",
        "key create release --tag env",
        "key destroy release",
        "key destroy release --cancel --confirm release",
        "key revoke release",
        "key show release --version 0",
        "sign release",
        "sign release file --format pem",
        "verify release file",
        "client add bob --public-key k --role boss",
        "request explain 00",
        "status -o yaml",
        "status --timeout 0",
        "bench sign --key release --clients 0 --seconds 1",
    ] {
        assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
    }
    assert_eq!(parse("--help").err().map(|error| error.exit_code()), Some(0));
    assert_eq!(parse("--version").err().map(|error| error.exit_code()), Some(0));
}

#[test]
fn json_is_wanted_even_when_arguments_do_not_parse() {
    let wants = |line: &str| wants_json(line.split_whitespace().map(str::to_owned));
    assert!(
        wants("key create -o json") && wants("-ojson key") && wants("key --output json x") && wants("--output=json")
    );
    assert!(!wants("key create json") && !wants("-o table") && !wants(""));
}

#[test]
fn global_options_are_found_before_and_behind_the_command() {
    for line in ["-o json --endpoints a:1,b:2 --timeout 3 status", "status -o json --endpoints a:1,b:2 --timeout 3"] {
        let args = parse(line).ok().map(|args| args.global);
        let found = args.map(|global| (global.output, global.endpoints.len(), global.timeout));
        assert_eq!(found, Some((Style::Json, 2, Some(Duration::from_secs(3)))), "{line}");
    }
}

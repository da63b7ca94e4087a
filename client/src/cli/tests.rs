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
        "member list -o json",
        "member add symbolon-node:01 --id 4",
        "member add node4.enrolment --id 4 --learner --ticket node4.ticket -o json",
        "member remove node1 --drain --wait 30m",
        "member remove 3 --lost",
        "member replace node3 node5.enrolment --id 5 --lost --ticket node5.ticket",
        "member move node1 --peer a:1 --client a:2",
        "member move 1 --client a:2",
        "cluster upgrade --to 2 -o json",
        "cluster upgrade --to 2 --wait 30m",
        "status -o json",
        "doctor",
        "doctor --endpoints a:1,b:2 -o json",
        "key create release",
        "key create release --threshold 3 --roster node1,node2,node3 --expires 2030-01-31 --tag env=prod --tag team=a",
        "key create release --expires 90d --timeout 5",
        "key list --tag env=prod",
        "key show release --version 2",
        "key rotate release --expires 2030-01-31T00:00:00Z",
        "key create release --refresh-every 24h --max-staleness 1s",
        "key refresh release",
        "key refresh release --version 2 --absent node1,node2 --no-wait -o json",
        "key reshare release --roster node1,node2,node3 --threshold 2",
        "key reshare release --threshold 3 --version 1 --absent 4 --no-wait",
        "key policy release",
        "key policy release --refresh-every never --max-staleness 300ms -o json",
        "operation list -o json",
        "operation show release",
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
        "bench refresh --keys 20 --parallel 4 --threshold 3 --roster node1,node2,node3 -o json",
        "bench refresh --keys 20 --prefix release --clients 8 --seconds 3",
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
        "key reshare release",
        "key policy release --refresh-every often",
        "key policy release --max-staleness never",
        "bench refresh --prefix release --keep",
        "key show release --version 0",
        "sign release",
        "sign release file --format pem",
        "verify release file",
        "client add bob --public-key k --role boss",
        "request explain 00",
        "status -o yaml",
        "status --timeout 0",
        "bench sign --key release --clients 0 --seconds 1",
        "man --dir",
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
fn usage_errors_in_json_name_the_arguments() {
    let told = |line: &str| parse(line).err().map(|error| usage_error(&error));
    for (line, named, message) in [
        (
            "client add bob",
            &["--public-key <KEY|FILE>", "--role <ROLE>"][..],
            "the following required arguments were not provided: --public-key <KEY|FILE>, --role <ROLE>",
        ),
        (
            "status -o yaml",
            &["--output <FORM>"][..],
            "invalid value 'yaml' for '--output <FORM>' [possible values: table, json]",
        ),
        (
            "key show release --version 0",
            &["--version <VERSION>"][..],
            "invalid value '0' for '--version <VERSION>': versions count from 1",
        ),
        ("key list --wobble", &["--wobble"][..], "unexpected argument '--wobble' found"),
    ] {
        let error = told(line);
        let details = error.as_ref().and_then(|error| error.details().get("arguments"));
        assert_eq!(details, Some(&Detail::List(named.iter().map(|&name| name.to_owned()).collect())), "{line}");
        assert_eq!(error.as_ref().map(Error::message), Some(message), "{line}");
        assert_eq!(error.map(|error| error.code()), Some(ErrorCode::InvalidArgument), "{line}");
    }
    let both = told("key destroy release --cancel --confirm release").map(|error| error.message().to_owned());
    assert!(both.is_some_and(|text| text.contains("--cancel") && text.contains("--confirm <KEY>")));
    // The help of a group is no message.
    let missing = told("-o json key").map(|error| error.message().to_owned());
    assert!(missing.is_some_and(|text| text.contains("command") && !text.contains("Usage")));
}

#[test]
fn the_help_of_a_rotation_says_what_is_not_taken_over() {
    let command = Args::command();
    let rotate = command.find_subcommand("key").and_then(|key| key.find_subcommand("rotate"));
    let about = rotate.and_then(clap::Command::get_long_about).map(ToString::to_string);
    assert!(about.is_some_and(|text| text.contains("expiry") && text.contains("suspended")));
}

#[test]
fn the_help_of_a_policy_says_what_either_choice_costs() {
    let mut command = Args::command();
    command.build();
    let policy = command.find_subcommand("key").and_then(|key| key.find_subcommand("policy"));
    let staleness = policy.and_then(|policy| policy.get_arguments().find(|arg| arg.get_id() == "max_staleness"));
    let help = staleness.and_then(|arg| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    for said in ["longer without a majority", "a revocation takes hold sooner", "only after the old one has passed"] {
        assert!(help.contains(said), "{help}");
    }
}

#[test]
fn global_options_are_found_before_and_behind_the_command() {
    for line in ["-o json --endpoints a:1,b:2 --timeout 3 status", "status -o json --endpoints a:1,b:2 --timeout 3"] {
        let args = parse(line).ok().map(|args| args.global);
        let found = args.map(|global| (global.output, global.endpoints.len(), global.timeout));
        assert_eq!(found, Some((Style::Json, 2, Some(Duration::from_secs(3)))), "{line}");
    }
}

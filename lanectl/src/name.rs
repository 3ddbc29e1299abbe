//! How operators name policies.

use anyhow::Context as _;
use laneguard_proto::subject::{ENVIRONMENT_POLICY, Token};

/// The policy's token: from `namespace/name`, from a name and `-n`, from the token itself, or `default`, the environment's.
///
/// # Errors
/// When it cannot name a policy.
pub(crate) fn token(name: &str, namespace: Option<&str>) -> anyhow::Result<Token> {
    let object = |namespace: &str, name: &str| {
        anyhow::ensure!(
            !namespace.is_empty() && !name.is_empty(),
            "`{namespace}/{name}` is not namespace/name"
        );
        Token::of_object(namespace, name).context("not a policy's name")
    };
    match (name.split_once('/'), namespace) {
        (Some((in_name, _)), Some(flag)) if in_name != flag => {
            anyhow::bail!("`{name}` and -n {flag} name two namespaces")
        }
        (Some((namespace, name)), _) => object(namespace, name),
        (None, Some(namespace)) => object(namespace, name),
        // `_` occurs in no Kubernetes name
        (None, None) if name == ENVIRONMENT_POLICY || name.contains('_') => {
            name.parse().context("not a policy's name")
        }
        (None, None) => object("default", name),
    }
}

/// As operators write it: `namespace/name`, or the token of the environment's policy.
pub(crate) fn shown(token: &str) -> String {
    token.replacen('_', "/", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_policy_gives_its_token() {
        for (name, namespace, token) in [
            ("factory/floor", None, "factory_floor"),
            ("floor", Some("factory"), "factory_floor"),
            ("factory/floor", Some("factory"), "factory_floor"),
            ("factory_floor", None, "factory_floor"),
            ("floor", None, "default_floor"),
            ("default", None, "default"),
            ("default", Some("default"), "default_default"),
        ] {
            assert_eq!(super::token(name, namespace).unwrap().as_str(), token);
        }
        assert_eq!(shown("factory_floor"), "factory/floor");
        assert_eq!(shown("default"), "default");
    }

    #[test]
    fn what_names_no_policy_is_refused() {
        for (name, namespace) in [
            ("a/b", Some("c")),
            ("/b", None),
            ("a/", None),
            ("a b", None),
            ("a/b/c", None),
            ("*_*", None),
        ] {
            assert!(token(name, namespace).is_err(), "{name}");
        }
    }
}

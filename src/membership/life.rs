//! A node's signed word that it lives.
//!
//! A **life** is one process of a node: the number of its start, and its instance, which no other process has. A member that
//! tells a node of another life of that node passes on the word of that life: nobody but a process with the same
//! identity.key can have given it.

use crate::{
    ident::{Name, NodeId},
    membership::change::{Signature, Signer},
};

/// The boot number of a life, and its instance.
pub type Life = (u64, u64);

/// What a word begins with: it can be mistaken for no other text that is signed. Altered only with a new number.
const PURPOSE: &[u8] = b"quorate life 1";

/// The word of a node of `cluster` that this life is its own.
pub fn word(signer: &Signer, cluster: &Name, life: Life) -> Signature {
    signer.sign(&to_signed_bytes(cluster, life))
}

/// Whether `node` itself has given this word.
pub fn is_word_of(node: &NodeId, cluster: &Name, life: Life, word: &Signature) -> bool {
    word.is_of(node, &to_signed_bytes(cluster, life))
}

/// Only the last part has no fixed length.
fn to_signed_bytes(cluster: &Name, (boot, instance): Life) -> Vec<u8> {
    [PURPOSE, &boot.to_be_bytes(), &instance.to_be_bytes(), cluster.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_good_for_one_life_of_one_node_in_one_cluster() {
        let [signer, other] = [1, 2].map(|number| Signer::from_seed([number; 32]));
        let [red, blue] = ["red", "blue"].map(|name| Name::new(name).unwrap());
        let given = word(&signer, &red, (6, 9));
        assert!(is_word_of(&signer.node_id(), &red, (6, 9), &given));
        assert!(!is_word_of(&signer.node_id(), &red, (6, 8), &given));
        assert!(!is_word_of(&signer.node_id(), &red, (7, 9), &given));
        assert!(!is_word_of(&signer.node_id(), &blue, (6, 9), &given));
        assert!(!is_word_of(&other.node_id(), &red, (6, 9), &given));
    }
}

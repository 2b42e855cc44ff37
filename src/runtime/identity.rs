//! Who a peer is: the key file, and the two names of one public key.
//!
//! The core names a node by its Ed25519 public key, libp2p by a `PeerId`, which holds that very key: both ways the
//! conversion is exact. Peers with other kinds of keys are no nodes.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey, ed25519},
};
use thiserror::Error;

use crate::{ident::NodeId, membership::change::Signer};

/// Why there is no identity. Nothing was changed.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The key file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The key file does not hold an Ed25519 key.
    #[error(
        "{path} does not hold an Ed25519 key in libp2p's encoding; put the right file back, or move it away: the next \
         start makes a new key, and with a new identity.key the node becomes a new member", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The key in `path`, made at the first call (mode 0600).
pub fn load_or_create(path: &Path) -> Result<Keypair, IdentityError> {
    let io_error = |source| IdentityError::Io { path: path.to_owned(), source };
    if let Some(keypair) = load(path)? {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        return Ok(keypair);
    }
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair.to_protobuf_encoding().expect("an Ed25519 key can be encoded");
    create(path, &bytes).map_err(io_error)?;
    Ok(keypair)
}

/// The key in `path`; nothing when there is no such file.
pub fn load(path: &Path) -> Result<Option<Keypair>, IdentityError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { path: path.to_owned(), source }),
    };
    let damaged = || IdentityError::Damaged { path: path.to_owned() };
    let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|_| damaged())?;
    keypair.clone().try_into_ed25519().map_err(|_| damaged())?;
    Ok(Some(keypair))
}

/// The signer of membership changes that `keypair` is.
pub fn signer_of(keypair: &Keypair) -> Signer {
    let ed25519 = keypair.clone().try_into_ed25519().expect("our own keys are Ed25519");
    let seed = ed25519.secret().as_ref().try_into().expect("an Ed25519 secret has 32 bytes");
    Signer::from_seed(seed)
}

/// The node behind `peer`; nothing when its key is of another kind.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    // A PeerId of an Ed25519 key is the identity multihash (code 0) of the key's protobuf encoding.
    let multihash = peer.as_ref();
    if multihash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// How libp2p names `node`; nothing when its bytes are not a point of the curve, which no peer can then have.
pub fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// Writes a new file whole or not at all: another name first, then the right one.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_node_lead_to_each_other() {
        let keypair = Keypair::generate_ed25519();
        let node = node_id(&keypair.public().to_peer_id()).unwrap();
        assert_eq!(peer_id(&node), Some(keypair.public().to_peer_id()));
        assert_eq!(signer_of(&keypair).node_id(), node);
    }

    #[test]
    fn the_identity_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        assert!(load(&path).unwrap().is_none());
        let first = load_or_create(&path).unwrap().public();
        assert_eq!(load(&path).unwrap().unwrap().public(), first);
        assert_eq!(load_or_create(&path).unwrap().public(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_file_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        fs::write(&path, b"not a key").unwrap();
        assert!(matches!(load_or_create(&path), Err(IdentityError::Damaged { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}

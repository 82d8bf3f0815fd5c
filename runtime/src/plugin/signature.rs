//! Signatures of components: Ed25519 (RFC 8032) over the bytes of the file.
//!
//! Keys are files in PEM as other tools write and read them: the private one PKCS #8, the public one a
//! SubjectPublicKeyInfo. A signature is a line of text:
//!
//! ```text
//! ed25519 4f2a9c1d77e0b3a8 BASE64-OF-64-BYTES
//! ```
//!
//! The second word tells which key it was made with: the first 16 digits of the SHA-256 of the public key's 32 bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::Digest;

/// The first word of a signature.
const ALGORITHM: &str = "ed25519";
/// Digits of a key's id.
const ID_DIGITS: usize = 16;
const PUBLIC_KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// What stands before the 32 bytes of a public key in DER (RFC 8410).
const PUBLIC_KEY_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// Characters of a line in PEM.
const PEM_LINE: usize = 64;

/// What is wrong with a key or a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The text is no private key.
    #[error(
        "it is no Ed25519 private key in PEM (PKCS #8): {0}; `millstream plugin keygen` makes one"
    )]
    PrivateKey(String),
    /// The text is no public key.
    #[error(
        "it is no Ed25519 public key in PEM: {0}; `millstream plugin keygen` writes one beside the private key"
    )]
    PublicKey(String),
    /// The text is no signature.
    #[error(
        "it is no signature: expected `ed25519 KEY-ID BASE64`, as `millstream plugin sign` writes it"
    )]
    Malformed,
    /// The key that a signature names is not among those that are trusted.
    #[error("the key {0} that signed it is not among the trusted ones")]
    UnknownKey(KeyId),
    /// The signature is not one of these bytes.
    #[error("it was not made of this component with the key {0}; sign the component again")]
    Mismatch(KeyId),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What a key is called: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyId(String);

impl KeyId {
    fn of(public_key: &[u8]) -> Self {
        let digest = Digest::of(public_key);
        Self(digest.as_str().chars().take(ID_DIGITS).collect())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key with which components are signed.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key. Returns it in PEM, which is a secret, and what checks its signatures.
    ///
    /// # Errors
    /// [`SignatureError::Random`]
    pub fn generate() -> Result<(String, PublicKey), SignatureError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| SignatureError::Random)?;
        let pem = pem("PRIVATE KEY", document.as_ref());
        let key = Self::from_pem(&pem)?.public_key()?;
        Ok((pem, key))
    }

    /// Reads a key, also of `openssl genpkey -algorithm ed25519`.
    ///
    /// # Errors
    /// [`SignatureError::PrivateKey`]
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| SignatureError::PrivateKey(error.to_string()))?;
        // OpenSSL leaves out the public key, with which the private one would be compared.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map_err(|error| SignatureError::PrivateKey(error.to_string()))?;
        Ok(Self(pair))
    }

    /// Signs a component.
    pub fn sign(&self, wasm: &[u8]) -> Signature {
        Signature {
            key: KeyId::of(self.0.public_key().as_ref()),
            bytes: self.0.sign(wasm).as_ref().to_vec(),
        }
    }

    /// What checks its signatures.
    ///
    /// # Errors
    /// [`SignatureError::PublicKey`], which no key leads to.
    pub fn public_key(&self) -> Result<PublicKey, SignatureError> {
        PublicKey::new(self.0.public_key().as_ref())
    }
}

/// What checks the signatures of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    fn new(bytes: &[u8]) -> Result<Self, SignatureError> {
        let key = bytes.try_into().map(Self);
        key.map_err(|_| SignatureError::PublicKey("it is of another kind".to_owned()))
    }

    /// Reads a key, also of `openssl pkey -pubout`.
    ///
    /// # Errors
    /// [`SignatureError::PublicKey`]
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
            .map_err(|error| SignatureError::PublicKey(error.to_string()))?;
        Self::new(der.strip_prefix(&PUBLIC_KEY_PREFIX).unwrap_or_default())
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_KEY_PREFIX[..], &self.0].concat())
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0)
    }
}

/// A signature of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    key: KeyId,
    bytes: Vec<u8>,
}

impl Signature {
    /// The key that it says to have been made with.
    pub fn key(&self) -> &KeyId {
        &self.key
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{ALGORITHM} {} {}",
            self.key,
            STANDARD.encode(&self.bytes)
        )
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let mut words = text.split_ascii_whitespace();
        let (algorithm, key, bytes) = (words.next(), words.next(), words.next());
        let is_id = |id: &&str| {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            id.len() == ID_DIGITS && id.bytes().all(is_digit)
        };
        let key = key.filter(is_id).map(|id| KeyId(id.to_owned()));
        let bytes = bytes.and_then(|bytes| STANDARD.decode(bytes).ok());
        match (key, bytes, words.next()) {
            (Some(key), Some(bytes), None)
                if algorithm == Some(ALGORITHM) && bytes.len() == SIGNATURE_BYTES =>
            {
                Ok(Self { key, bytes })
            }
            _ => Err(SignatureError::Malformed),
        }
    }
}

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// These keys.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that one of the keys has signed the component.
    ///
    /// # Errors
    /// [`SignatureError::UnknownKey`], [`SignatureError::Mismatch`]
    pub fn check(&self, signature: &Signature, wasm: &[u8]) -> Result<(), SignatureError> {
        let key = self.0.iter().find(|key| key.id() == signature.key);
        let key = key.ok_or_else(|| SignatureError::UnknownKey(signature.key.clone()))?;
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(wasm, &signature.bytes)
            .map_err(|_| SignatureError::Mismatch(signature.key.clone()))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(PEM_LINE) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl genpkey -algorithm ed25519`, and `openssl pkey -pubout` of it.
    const OPENSSL_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPU3PT1KG725kWmQhPyXPj0CtMq7BDwZXCelkqQAGGbD\n-----END PRIVATE KEY-----\n";
    const OPENSSL_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAxNqAxkRgIxTnj9tND4e2EjPD+EHlUAGkCeBeZ4BRk9Q=\n-----END PUBLIC KEY-----\n";
    /// `openssl pkeyutl -sign -rawin -inkey key.pem -in file`, of a file with the bytes `component`, in Base64.
    const OPENSSL_SIGNATURE: &str =
        "8+khhSBaIEJueA6s6iL1vw4syZ6WXY+MVwr/HPRCR5mrOaYUztFbPA/9h9GLzx2zCVwudLzJOZ43SDLL1KvQBw==";

    #[test]
    fn a_signature_is_good_for_its_bytes_and_its_key_only() {
        let (pem, public) = SigningKey::generate().unwrap();
        let (_, other) = SigningKey::generate().unwrap();
        let signature = SigningKey::from_pem(&pem).unwrap().sign(b"component");
        let signature: Signature = signature.to_string().parse().unwrap();
        assert_eq!(*signature.key(), public.id());
        let trusted = TrustedKeys::new(vec![other.clone(), public.clone()]);
        assert_eq!(trusted.check(&signature, b"component"), Ok(()));
        let mismatch = Err(SignatureError::Mismatch(public.id()));
        assert_eq!(trusted.check(&signature, b"components"), mismatch);
        let unknown = Err(SignatureError::UnknownKey(public.id()));
        let others = TrustedKeys::new(vec![other.clone()]);
        assert_eq!(others.check(&signature, b"component"), unknown);
        // Whoever names a trusted key has not signed with it.
        let forged = Signature {
            key: other.id(),
            ..signature
        };
        let mismatch = Err(SignatureError::Mismatch(other.id()));
        assert_eq!(trusted.check(&forged, b"component"), mismatch);
    }

    #[test]
    fn keys_and_signatures_are_those_of_openssl() {
        let key = SigningKey::from_pem(OPENSSL_PRIVATE).unwrap();
        let public = PublicKey::from_pem(OPENSSL_PUBLIC).unwrap();
        assert_eq!(key.public_key().unwrap(), public);
        assert_eq!(public.to_pem(), OPENSSL_PUBLIC);
        let signature = key.sign(b"component").to_string();
        assert_eq!(
            signature,
            format!("ed25519 {} {OPENSSL_SIGNATURE}", public.id())
        );
    }

    #[test]
    fn what_is_no_key_or_signature_is_refused() {
        for text in ["", "x", OPENSSL_PRIVATE] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
        for text in ["", "x", OPENSSL_PUBLIC] {
            assert!(SigningKey::from_pem(text).is_err(), "{text}");
        }
        let good = format!("ed25519 0123456789abcdef {OPENSSL_SIGNATURE}");
        assert!(good.parse::<Signature>().is_ok());
        for text in [
            String::new(),
            good.replace("ed25519", "rsa"),
            good.replace("abcdef", "ABCDEF"),
            good.replace("0123456789abcdef", "0123"),
            format!("{good} more"),
            "ed25519 0123456789abcdef AAAA".to_owned(),
        ] {
            assert_eq!(
                text.parse::<Signature>(),
                Err(SignatureError::Malformed),
                "{text}"
            );
        }
    }
}

//! The commands of a TPM that identity and attestation need, each as one function (part 3 of the library names them).

use darkbloom_types::{Digest, armed};
use tpm2_protocol::basic::{TpmHandle, TpmInt32, TpmUint16, TpmUint32};
use tpm2_protocol::data::{
    Tpm2bAuth, Tpm2bData, Tpm2bDigest, Tpm2bEccParameter, Tpm2bEncryptedSecret, Tpm2bIdObject, Tpm2bNonce, Tpm2bPublic,
    Tpm2bSensitiveCreate, TpmAlgId, TpmCap, TpmCc, TpmEccCurve, TpmRh, TpmSe, TpmSt, TpmaObject, TpmaSession,
    TpmlPcrSelection, TpmsAuthCommand, TpmsEccParms, TpmsEccPoint, TpmsPcrSelect, TpmsPcrSelection, TpmsSchemeHash,
    TpmtEccScheme, TpmtKdfScheme, TpmtPublic, TpmtSigScheme, TpmtSignature, TpmtSymDefObject, TpmtTkHashcheck,
    TpmuAsymScheme, TpmuCapabilities, TpmuPublicId, TpmuPublicParms, TpmuSignature,
};
use tpm2_protocol::frame::{
    TpmActivateCredentialCommand, TpmActivateCredentialResponse, TpmCertifyCommand, TpmCertifyResponse,
    TpmCreatePrimaryCommand, TpmCreatePrimaryResponse, TpmEvictControlCommand, TpmEvictControlResponse,
    TpmFlushContextCommand, TpmFlushContextResponse, TpmGetCapabilityCommand, TpmGetCapabilityResponse,
    TpmNvReadCommand, TpmNvReadPublicCommand, TpmNvReadPublicResponse, TpmNvReadResponse, TpmPcrReadCommand,
    TpmPcrReadResponse, TpmPolicyGetDigestCommand, TpmPolicyGetDigestResponse, TpmPolicyPcrCommand,
    TpmPolicyPcrResponse, TpmPolicySecretCommand, TpmPolicySecretResponse, TpmQuoteCommand, TpmQuoteResponse,
    TpmReadPublicCommand, TpmReadPublicResponse, TpmSignCommand, TpmSignResponse, TpmStartAuthSessionCommand,
    TpmStartAuthSessionResponse,
};
use tpm2_protocol::{TpmMarshal, TpmWriter};

use super::device::{Device, TpmError, code};

/// Most bytes that one read of an index asks for: every TPM gives so many.
const NV_CHUNK: u16 = 512;
/// Largest certificate that is read from an index.
const NV_BYTES_MAX: u16 = 4_096;
/// Registers that one read asks for: more do not fit into an answer.
const PCRS_PER_READ: usize = 8;
/// A loaded object, session or hierarchy.
pub type Handle = u32;

/// What the library's types hold always has room for what is put there: sizes are fixed by the algorithms.
pub const FITS: &str = "a value of a fixed size fits into its field";

/// A structure that a TPM made and signed.
pub struct Attested {
    /// `TPMS_ATTEST`.
    pub bytes: Vec<u8>,
    /// r ‖ s.
    pub signature: [u8; 64],
}

fn rh(hierarchy: TpmRh) -> TpmHandle {
    TpmHandle::new(hierarchy.value())
}

/// An empty password, which all keys of ours have: who may use them is a matter of the device's permissions.
fn password() -> TpmsAuthCommand {
    session(TpmRh::Pw.value())
}

/// A session that goes on after the command.
fn session(handle: Handle) -> TpmsAuthCommand {
    TpmsAuthCommand {
        session_handle: TpmHandle::new(handle),
        nonce: Tpm2bNonce::default(),
        session_attributes: TpmaSession::CONTINUE_SESSION,
        hmac: Tpm2bAuth::default(),
    }
}

fn marshalled(value: &impl TpmMarshal) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let mut writer = TpmWriter::new(&mut buffer);
    value.marshal(&mut writer).expect(FITS);
    writer.as_bytes().to_vec()
}

/// A `TPMT_PUBLIC` as bytes.
pub fn public_bytes(public: &TpmtPublic) -> Vec<u8> {
    marshalled(public)
}

/// The point of a key on P-256, uncompressed.
pub fn point(public: &TpmtPublic) -> Option<[u8; 65]> {
    let TpmuPublicId::Ecc(TpmsEccPoint { x, y }) = &public.unique else { return None };
    let mut point = [0; 65];
    point[0] = 4;
    padded(x, &mut point[1..33])?;
    padded(y, &mut point[33..])?;
    Some(point)
}

/// A number with leading zeros: TPMs leave them out.
fn padded(number: &[u8], to: &mut [u8]) -> Option<()> {
    let from = to.len().checked_sub(number.len())?;
    to[from..].copy_from_slice(number);
    Some(())
}

fn ecdsa(signature: &TpmtSignature) -> Option<[u8; 64]> {
    let TpmuSignature::Ecdsa(ecdsa) = &signature.signature else { return None };
    let mut bytes = [0; 64];
    padded(&ecdsa.signature_r, &mut bytes[..32])?;
    padded(&ecdsa.signature_s, &mut bytes[32..])?;
    Some(bytes)
}

/// What a signing key on P-256 must be. Primary keys are derived from the hierarchy's seed and this: the same salt is the
/// same key, as long as nobody clears the TPM.
pub fn signing_template(salt: &[u8; 32], restricted: bool, policy: Option<&[u8; 32]>) -> Tpm2bPublic {
    let mut attributes = TpmaObject::SENSITIVE_DATA_ORIGIN | TpmaObject::NO_DA | TpmaObject::SIGN_ENCRYPT;
    if armed!("tpm_template_fixed") {
        attributes |= TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT;
    }
    if restricted {
        attributes |= TpmaObject::RESTRICTED;
    }
    // With a policy, no password signs. Certifying the key takes the password all the same, which is what it is for.
    if policy.is_none() {
        attributes |= TpmaObject::USER_WITH_AUTH;
    }
    let policy = match policy {
        Some(policy) => Tpm2bDigest::try_from(&policy[..]).expect(FITS),
        None if armed!("tpm_template_fixed") => Tpm2bDigest::default(),
        None => Tpm2bDigest::try_from(&may_be_duplicated()[..]).expect(FITS),
    };
    let scheme = TpmtEccScheme {
        scheme: TpmAlgId::Ecdsa,
        details: TpmuAsymScheme::Hash(TpmsSchemeHash { hash_alg: TpmAlgId::Sha256 }),
    };
    let parameters = TpmsEccParms {
        symmetric: TpmtSymDefObject { algorithm: TpmAlgId::Null, ..TpmtSymDefObject::default() },
        scheme,
        curve_id: TpmEccCurve::NistP256,
        kdf: TpmtKdfScheme::default(),
    };
    let unique =
        TpmsEccPoint { x: Tpm2bEccParameter::try_from(&salt[..]).expect(FITS), y: Tpm2bEccParameter::default() };
    Tpm2bPublic {
        inner: TpmtPublic {
            object_type: TpmAlgId::Ecc,
            name_alg: TpmAlgId::Sha256,
            object_attributes: attributes,
            auth_policy: policy,
            parameters: TpmuPublicParms::Ecc(parameters),
            unique: TpmuPublicId::Ecc(unique),
        },
    }
}

/// The policy of a key that anybody may duplicate, which the attack suite's second build alone gives one: TPM2_PolicyCommandCode
/// of TPM2_Duplicate (TPM 2.0 part 3, section 23.11).
fn may_be_duplicated() -> [u8; 32] {
    let [policy, duplicate] = [TpmCc::PolicyCommandCode, TpmCc::Duplicate].map(|code| (code as u32).to_be_bytes());
    Digest::of(&[&[0; 32], &policy, &duplicate]).0
}

/// The registers of the SHA-256 bank.
pub fn selection(pcrs: &[u32]) -> TpmlPcrSelection {
    let mut bits = [0; 3];
    for pcr in pcrs {
        bits[*pcr as usize / 8] |= 1 << (pcr % 8);
    }
    let pcr_select = TpmsPcrSelect::try_from(&bits[..]).expect(FITS);
    let mut list = TpmlPcrSelection::new();
    list.try_push(TpmsPcrSelection { hash: TpmAlgId::Sha256, pcr_select }).expect(FITS);
    list
}

fn no_scheme() -> TpmtSigScheme {
    TpmtSigScheme::default()
}

impl Device {
    /// The maker's four letters and the firmware's version.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn maker(&mut self) -> Result<(String, u64), TpmError> {
        /// `TPM_PT_MANUFACTURER`; six more, up to the firmware's version in two halves, come with it.
        const MANUFACTURER: u32 = 0x105;
        const FIRMWARE: [u32; 2] = [0x10b, 0x10c];
        let TpmuCapabilities::TpmProperties(properties) = self.capability(TpmCap::TpmProperties, MANUFACTURER, 8)?
        else {
            return Err(other_answer("TPM2_GetCapability"));
        };
        let value = |wanted: u32| {
            let found = properties.iter().find(|property| property.property.value() == wanted);
            found.map_or(0, |property| property.value.value())
        };
        let letters = value(MANUFACTURER).to_be_bytes();
        let maker: String =
            letters.iter().filter(|letter| letter.is_ascii_graphic()).map(|letter| char::from(*letter)).collect();
        Ok((maker, u64::from(value(FIRMWARE[0])) << 32 | u64::from(value(FIRMWARE[1]))))
    }

    fn capability(&mut self, cap: TpmCap, property: u32, count: u32) -> Result<TpmuCapabilities, TpmError> {
        let command = TpmGetCapabilityCommand {
            handles: [],
            cap,
            property: TpmUint32::new(property),
            property_count: TpmUint32::new(count),
        };
        let answer: TpmGetCapabilityResponse = self.run("TPM2_GetCapability", &command, &[])?;
        Ok(answer.capability_data.data)
    }

    /// Persistent handles from one on.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn persistent(&mut self, from: Handle, count: u32) -> Result<Vec<Handle>, TpmError> {
        let TpmuCapabilities::Handles(handles) = self.capability(TpmCap::Handles, from, count)? else {
            return Err(other_answer("TPM2_GetCapability"));
        };
        Ok(handles.iter().map(|handle| handle.value()).collect())
    }

    /// The public area of an object; nothing when there is none at the handle.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn public(&mut self, handle: Handle) -> Result<Option<TpmtPublic>, TpmError> {
        let command = TpmReadPublicCommand { handles: [TpmHandle::new(handle)] };
        match self.run::<_, TpmReadPublicResponse>("TPM2_ReadPublic", &command, &[]) {
            Ok(answer) => Ok(Some(answer.out_public.inner)),
            Err(TpmError::Refused { code, .. }) if code::base(code) == code::HANDLE => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a primary key and has `then` use it before it is flushed.
    ///
    /// # Errors
    /// [`TpmError`], or those of `then`.
    pub fn with_primary<T, E: From<TpmError>>(
        &mut self,
        hierarchy: TpmRh,
        template: Tpm2bPublic,
        then: impl FnOnce(&mut Self, Handle, &TpmtPublic) -> Result<T, E>,
    ) -> Result<T, E> {
        let command = TpmCreatePrimaryCommand {
            handles: [rh(hierarchy)],
            in_sensitive: Tpm2bSensitiveCreate::default(),
            in_public: template,
            outside_info: Tpm2bData::default(),
            creation_pcr: TpmlPcrSelection::new(),
        };
        let answer: TpmCreatePrimaryResponse = self.run("TPM2_CreatePrimary", &command, &[password()])?;
        let handle = answer.handles[0].value();
        let result = then(self, handle, &answer.out_public.inner);
        self.flush(handle)?;
        result
    }

    /// Makes a loaded key persistent, or, given a persistent one, removes it.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn evict_control(&mut self, object: Handle, persistent: Handle) -> Result<(), TpmError> {
        let command = TpmEvictControlCommand {
            handles: [rh(TpmRh::Owner), TpmHandle::new(object)],
            persistent_handle: TpmHandle::new(persistent),
        };
        self.run::<_, TpmEvictControlResponse>("TPM2_EvictControl", &command, &[password()]).map(drop)
    }

    fn flush(&mut self, handle: Handle) -> Result<(), TpmError> {
        let command = TpmFlushContextCommand { handles: [], flush_handle: TpmHandle::new(handle) };
        self.run::<_, TpmFlushContextResponse>("TPM2_FlushContext", &command, &[]).map(drop)
    }

    /// Signs a SHA-256 digest: with the empty password, or by the policy that these registers have the values they had when
    /// the key was made.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn sign(&mut self, key: Handle, digest: &[u8; 32], pcrs: &[u32]) -> Result<[u8; 64], TpmError> {
        let command = TpmSignCommand {
            handles: [TpmHandle::new(key)],
            digest: Tpm2bDigest::try_from(&digest[..]).expect(FITS),
            in_scheme: no_scheme(),
            // The digest was not made by the TPM, which unrestricted keys do not ask for.
            validation: TpmtTkHashcheck { tag: TpmSt::HashCheck, hierarchy: TpmRh::Null, ..Default::default() },
        };
        let answer: TpmSignResponse = if pcrs.is_empty() {
            self.run("TPM2_Sign", &command, &[password()])?
        } else {
            self.with_session(TpmSe::Policy, |device, policy| {
                device.policy_pcr(policy, pcrs)?;
                device.run("TPM2_Sign", &command, &[session(policy)])
            })?
        };
        ecdsa(&answer.signature).ok_or_else(|| other_answer("TPM2_Sign"))
    }

    fn with_session<T>(
        &mut self,
        kind: TpmSe,
        then: impl FnOnce(&mut Self, Handle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let command = TpmStartAuthSessionCommand {
            handles: [rh(TpmRh::Null), rh(TpmRh::Null)],
            nonce_caller: Tpm2bNonce::try_from(&[0; 16][..]).expect(FITS),
            encrypted_salt: Tpm2bEncryptedSecret::default(),
            session_type: kind,
            symmetric: TpmtSymDefObject { algorithm: TpmAlgId::Null, ..TpmtSymDefObject::default() },
            auth_hash: TpmAlgId::Sha256,
        };
        let answer: TpmStartAuthSessionResponse = self.run("TPM2_StartAuthSession", &command, &[])?;
        let handle = answer.handles[0].value();
        let result = then(self, handle);
        self.flush(handle)?;
        result
    }

    fn policy_pcr(&mut self, policy: Handle, pcrs: &[u32]) -> Result<(), TpmError> {
        let command = TpmPolicyPcrCommand {
            handles: [TpmHandle::new(policy)],
            pcr_digest: Tpm2bDigest::default(),
            pcrs: selection(pcrs),
        };
        self.run::<_, TpmPolicyPcrResponse>("TPM2_PolicyPCR", &command, &[]).map(drop)
    }

    /// The policy that these registers have the values that they have now.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn policy_of_now(&mut self, pcrs: &[u32]) -> Result<[u8; 32], TpmError> {
        self.with_session(TpmSe::Trial, |device, trial| {
            device.policy_pcr(trial, pcrs)?;
            let command = TpmPolicyGetDigestCommand { handles: [TpmHandle::new(trial)] };
            let answer: TpmPolicyGetDigestResponse = device.run("TPM2_PolicyGetDigest", &command, &[])?;
            (*answer.policy_digest).try_into().map_err(|_| other_answer("TPM2_PolicyGetDigest"))
        })
    }

    /// Has the attestation key say that a key is in this TPM.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify(&mut self, key: Handle, attestation: Handle, nonce: &[u8; 32]) -> Result<Attested, TpmError> {
        let command = TpmCertifyCommand {
            handles: [TpmHandle::new(key), TpmHandle::new(attestation)],
            qualifying_data: Tpm2bData::try_from(&nonce[..]).expect(FITS),
            in_scheme: no_scheme(),
        };
        let answer: TpmCertifyResponse = self.run("TPM2_Certify", &command, &[password(), password()])?;
        let signature = ecdsa(&answer.signature).ok_or_else(|| other_answer("TPM2_Certify"))?;
        Ok(Attested { bytes: marshalled(&answer.certify_info.inner), signature })
    }

    /// Has the attestation key say what these registers hold.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(&mut self, attestation: Handle, nonce: &[u8; 32], pcrs: &[u32]) -> Result<Attested, TpmError> {
        let command = TpmQuoteCommand {
            handles: [TpmHandle::new(attestation)],
            qualifying_data: Tpm2bData::try_from(&nonce[..]).expect(FITS),
            in_scheme: no_scheme(),
            pcr_select: selection(pcrs),
        };
        let answer: TpmQuoteResponse = self.run("TPM2_Quote", &command, &[password()])?;
        let signature = ecdsa(&answer.signature).ok_or_else(|| other_answer("TPM2_Quote"))?;
        Ok(Attested { bytes: marshalled(&answer.quoted.inner), signature })
    }

    /// The values of registers, and how often any register had been extended when they were read.
    ///
    /// # Errors
    /// [`TpmError`]; also when the TPM does not keep the SHA-256 bank.
    pub fn pcrs(&mut self, pcrs: &[u32]) -> Result<Vec<(u32, [u8; 32])>, TpmError> {
        let mut values = Vec::with_capacity(pcrs.len());
        for some in pcrs.chunks(PCRS_PER_READ) {
            let command = TpmPcrReadCommand { handles: [], pcr_selection_in: selection(some) };
            let answer: TpmPcrReadResponse = self.run("TPM2_PCR_Read", &command, &[])?;
            if answer.pcr_values.len() != some.len() {
                let reason = "the SHA-256 bank is not active".to_owned();
                return Err(TpmError::Malformed { command: "TPM2_PCR_Read", reason });
            }
            for (pcr, value) in some.iter().zip(answer.pcr_values.iter()) {
                values.push((*pcr, (**value).try_into().map_err(|_| other_answer("TPM2_PCR_Read"))?));
            }
        }
        Ok(values)
    }

    /// The contents of an index that anybody may read; nothing when there is no such index.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn index(&mut self, index: Handle) -> Result<Option<Vec<u8>>, TpmError> {
        let command = TpmNvReadPublicCommand { handles: [TpmHandle::new(index)] };
        let public: TpmNvReadPublicResponse = match self.run("TPM2_NV_ReadPublic", &command, &[]) {
            Ok(answer) => answer,
            Err(TpmError::Refused { code, .. }) if code::base(code) == code::HANDLE => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = public.nv_public.inner.data_size.value();
        if size > NV_BYTES_MAX {
            let reason = format!("the index has {size} bytes, the limit is {NV_BYTES_MAX}");
            return Err(TpmError::Malformed { command: "TPM2_NV_ReadPublic", reason });
        }
        let mut contents = Vec::with_capacity(usize::from(size));
        for offset in (0..size).step_by(usize::from(NV_CHUNK)) {
            let command = TpmNvReadCommand {
                handles: [TpmHandle::new(index), TpmHandle::new(index)],
                size: TpmUint16::new(NV_CHUNK.min(size - offset)),
                offset: TpmUint16::new(offset),
            };
            let answer: TpmNvReadResponse = self.run("TPM2_NV_Read", &command, &[password()])?;
            contents.extend_from_slice(&answer.data);
        }
        Ok(Some(contents))
    }

    /// Opens a credential: only the TPM that holds both keys can. The endorsement key is used by the endorsement hierarchy's
    /// policy, or with its own empty password.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn activate(
        &mut self,
        attestation: Handle,
        endorsement: Handle,
        by_policy: bool,
        credential: &[u8],
        seed: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let too_long = |_| TpmError::Malformed {
            command: "TPM2_ActivateCredential",
            reason: "the credential does not fit into a TPM".to_owned(),
        };
        let command = TpmActivateCredentialCommand {
            handles: [TpmHandle::new(attestation), TpmHandle::new(endorsement)],
            credential_blob: Tpm2bIdObject::try_from(credential).map_err(too_long)?,
            secret: Tpm2bEncryptedSecret::try_from(seed).map_err(too_long)?,
        };
        if !by_policy {
            let answer: TpmActivateCredentialResponse =
                self.run("TPM2_ActivateCredential", &command, &[password(), password()])?;
            return Ok(answer.cert_info.to_vec());
        }
        self.with_session(TpmSe::Policy, |device, policy| {
            let secret = TpmPolicySecretCommand {
                handles: [rh(TpmRh::Endorsement), TpmHandle::new(policy)],
                nonce_tpm: Tpm2bNonce::default(),
                cp_hash_a: Tpm2bDigest::default(),
                policy_ref: Tpm2bNonce::default(),
                expiration: TpmInt32::new(0),
            };
            device.run::<_, TpmPolicySecretResponse>("TPM2_PolicySecret", &secret, &[password()])?;
            let answer: TpmActivateCredentialResponse =
                device.run("TPM2_ActivateCredential", &command, &[password(), session(policy)])?;
            Ok(answer.cert_info.to_vec())
        })
    }
}

fn other_answer(command: &'static str) -> TpmError {
    TpmError::Malformed { command, reason: "it is of another kind than what was asked for".to_owned() }
}

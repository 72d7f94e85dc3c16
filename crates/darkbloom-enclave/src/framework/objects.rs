//! CoreFoundation objects that are owned: each is released once.

use std::ffi::c_void;
use std::ptr::{NonNull, null};
use std::slice;

use super::bindings::*;
use crate::{KeychainError, codes};

/// An object that is released when it is dropped.
pub struct Object(NonNull<c_void>);

impl Object {
    /// Takes over what a function returned whose name has `Create` or `Copy`.
    pub fn owned(raw: Ref) -> Result<Self, KeychainError> {
        NonNull::new(raw.cast_mut()).map(Self).ok_or(KeychainError::Malformed("no object"))
    }

    /// Lends it.
    pub fn raw(&self) -> Ref {
        self.0.as_ptr()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is owned here, and nothing else releases it.
        unsafe { CFRelease(self.raw()) }
    }
}

/// What a function made that says in an error why it did not.
pub fn made(make: impl FnOnce(*mut Ref) -> Ref) -> Result<Object, KeychainError> {
    let mut error = null();
    let made = make(&raw mut error);
    // Only where nothing was made is there an error, and then it is the caller's to release.
    if made.is_null() { Err(reason(&Object::owned(error)?)) } else { Object::owned(made) }
}

/// What an error means. Other parts of the system count theirs from -1 down too: only in the domain of the Security
/// framework does a number mean what its headers say.
fn reason(error: &Object) -> KeychainError {
    // SAFETY: the error is alive, and lends its domain.
    let (code, is_status) =
        unsafe { (CFErrorGetCode(error.raw()), CFEqual(CFErrorGetDomain(error.raw()), kCFErrorDomainOSStatus) != 0) };
    match i32::try_from(code) {
        Ok(status) if is_status => KeychainError::of_status(status),
        _ => KeychainError::Foreign(code as i64),
    }
}

/// Bytes.
pub struct Data(Object);

impl Data {
    /// Copies bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeychainError> {
        // SAFETY: the bytes are copied while they are lent.
        Object::owned(unsafe { CFDataCreate(null(), bytes.as_ptr(), length(bytes)) }).map(Self)
    }

    /// What the system says are bytes.
    pub fn of(object: Object) -> Result<Self, KeychainError> {
        // SAFETY: the object is alive.
        let is_data = unsafe { CFGetTypeID(object.raw()) == CFDataGetTypeID() };
        if is_data { Ok(Self(object)) } else { Err(KeychainError::Malformed("no bytes where bytes were asked for")) }
    }

    /// Copies them.
    pub fn to_vec(&self) -> Vec<u8> {
        // SAFETY: the object is of this type and alive, and lends as many bytes as it says while it is.
        unsafe {
            let (bytes, length) = (CFDataGetBytePtr(self.raw()), CFDataGetLength(self.raw()));
            // No bytes may have no address.
            if bytes.is_null() { Vec::new() } else { slice::from_raw_parts(bytes, length.cast_unsigned()).to_vec() }
        }
    }

    /// Lends the object.
    pub fn raw(&self) -> Ref {
        self.0.raw()
    }
}

/// A list of objects, which it holds.
pub struct Array(Object);

impl Array {
    /// What the system says is a list.
    pub fn of(object: Object) -> Result<Self, KeychainError> {
        // SAFETY: the object is alive.
        let is_array = unsafe { CFGetTypeID(object.raw()) == CFArrayGetTypeID() };
        if is_array { Ok(Self(object)) } else { Err(KeychainError::Malformed("no list where a list was asked for")) }
    }

    /// Lends what is in it.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Ref> {
        // SAFETY: the object is of this type and alive.
        let count = i32::try_from(unsafe { CFArrayGetCount(self.0.raw()) }).unwrap_or(0);
        // SAFETY: the same, and each place is below the count.
        (0..count).map(|at| unsafe { CFArrayGetValueAtIndex(self.0.raw(), at as isize) })
    }
}

/// A dictionary, which holds what is in it.
pub struct Dictionary(Object);

impl Dictionary {
    /// Holds these pairs.
    pub fn new(pairs: &[(Ref, Ref)]) -> Result<Self, KeychainError> {
        let (keys, values): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
        // SAFETY: keys and values are objects that are alive, as many as it is told; with these callbacks it holds them.
        let made = unsafe {
            CFDictionaryCreate(
                null(),
                keys.as_ptr(),
                values.as_ptr(),
                length(&keys),
                &raw const kCFTypeDictionaryKeyCallBacks,
                &raw const kCFTypeDictionaryValueCallBacks,
            )
        };
        Object::owned(made).map(Self)
    }

    /// Lends the object.
    pub fn raw(&self) -> Ref {
        self.0.raw()
    }
}

/// A text.
pub fn text(text: &str) -> Result<Object, KeychainError> {
    // SAFETY: the bytes are copied while they are lent.
    Object::owned(unsafe { CFStringCreateWithBytes(null(), text.as_ptr(), length(text.as_bytes()), codes::UTF8, 0) })
}

/// A number.
pub fn number(value: i32) -> Result<Object, KeychainError> {
    // SAFETY: the number is of the kind that is named, and copied while it is lent.
    Object::owned(unsafe { CFNumberCreate(null(), codes::SINT32, (&raw const value).cast()) })
}

fn length<T>(of: &[T]) -> isize {
    of.len().cast_signed()
}

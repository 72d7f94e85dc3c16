//! CoreFoundation objects: those that are owned are released once, and those that are lent do not outlive their owner.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{NonNull, null};
use std::slice;

use super::bindings::*;
use crate::{KeychainError, codes};

/// An object that is released when it is dropped.
pub struct Object(NonNull<c_void>);

impl Object {
    /// Takes over an object; none is an error.
    ///
    /// # Safety
    /// It is null, or what a function returned whose name has `Create` or `Copy`, and nobody else releases it.
    pub unsafe fn owned(raw: Ref) -> Result<Self, KeychainError> {
        NonNull::new(raw.cast_mut()).map(Self).ok_or(KeychainError::Malformed("no object"))
    }

    /// Lends it.
    pub fn lent(&self) -> Lent<'_> {
        Lent(self.0.as_ptr(), PhantomData)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is owned here, and nothing else releases it.
        unsafe { CFRelease(self.0.as_ptr()) }
    }
}

/// An object that lives for so long at least.
#[derive(Clone, Copy)]
pub struct Lent<'a>(Ref, PhantomData<&'a Object>);

impl Lent<'_> {
    /// An object of another's.
    ///
    /// # Safety
    /// It lives as long as this says.
    pub unsafe fn of(raw: Ref) -> Self {
        Self(raw, PhantomData)
    }

    /// For a call.
    pub fn raw(self) -> Ref {
        self.0
    }
}

/// A constant of the frameworks.
macro_rules! constant {
    ($name:ident) => {
        // SAFETY: it is an object that lives as long as the process.
        unsafe { Lent::of($name) }
    };
}
pub(super) use constant;

/// What a function made that says in an error why it did not.
///
/// # Safety
/// What is made is the caller's to release; and where nothing is, so is the error.
pub unsafe fn made(make: impl FnOnce(*mut Ref) -> Ref) -> Result<Object, KeychainError> {
    let mut error = null();
    let made = make(&raw mut error);
    // SAFETY: the caller's promise, for each of the two.
    unsafe { if made.is_null() { Err(reason(&Object::owned(error)?)) } else { Object::owned(made) } }
}

/// What an error means. Other parts of the system count theirs from -1 down too: only in the domain of the Security
/// framework does a number mean what its headers say.
fn reason(error: &Object) -> KeychainError {
    let error = error.lent().raw();
    // SAFETY: the error is alive, and lends its domain.
    let (code, is_status) =
        unsafe { (CFErrorGetCode(error), CFEqual(CFErrorGetDomain(error), kCFErrorDomainOSStatus) != 0) };
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
        // SAFETY: the bytes are copied while they are lent; what is made is the caller's.
        unsafe { Object::owned(CFDataCreate(null(), bytes.as_ptr(), length(bytes))) }.map(Self)
    }

    /// What the system says are bytes.
    pub fn of(object: Object) -> Result<Self, KeychainError> {
        // SAFETY: the object is alive.
        let is_data = unsafe { CFGetTypeID(object.lent().raw()) == CFDataGetTypeID() };
        if is_data { Ok(Self(object)) } else { Err(KeychainError::Malformed("no bytes where bytes were asked for")) }
    }

    /// Copies them.
    pub fn to_vec(&self) -> Vec<u8> {
        let data = self.lent().raw();
        // SAFETY: the object is of this type and alive, and lends as many bytes as it says while it is.
        unsafe {
            let (bytes, length) = (CFDataGetBytePtr(data), CFDataGetLength(data));
            // No bytes may have no address.
            if bytes.is_null() { Vec::new() } else { slice::from_raw_parts(bytes, length.cast_unsigned()).to_vec() }
        }
    }

    /// Lends the object.
    pub fn lent(&self) -> Lent<'_> {
        self.0.lent()
    }
}

/// A list of objects, which it holds.
pub struct Array(Object);

impl Array {
    /// What the system says is a list.
    pub fn of(object: Object) -> Result<Self, KeychainError> {
        // SAFETY: the object is alive.
        let is_array = unsafe { CFGetTypeID(object.lent().raw()) == CFArrayGetTypeID() };
        if is_array { Ok(Self(object)) } else { Err(KeychainError::Malformed("no list where a list was asked for")) }
    }

    /// Lends what is in it.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Lent<'_>> {
        let array = self.0.lent().raw();
        // SAFETY: the object is of this type and alive.
        let count = i32::try_from(unsafe { CFArrayGetCount(array) }).unwrap_or(0);
        // SAFETY: the same; each place is below the count, and what is there lives as long as the list.
        (0..count).map(move |at| unsafe { Lent::of(CFArrayGetValueAtIndex(array, at as isize)) })
    }
}

/// A dictionary, which holds what is in it.
pub struct Dictionary(Object);

impl Dictionary {
    /// Holds these pairs.
    pub fn new(pairs: &[(Lent, Lent)]) -> Result<Self, KeychainError> {
        let (keys, values): (Vec<_>, Vec<_>) = pairs.iter().map(|(key, value)| (key.raw(), value.raw())).unzip();
        // SAFETY: keys and values are objects that are alive, as many as it is told; with these callbacks it holds them. What
        // is made is the caller's.
        let made = unsafe {
            Object::owned(CFDictionaryCreate(
                null(),
                keys.as_ptr(),
                values.as_ptr(),
                length(&keys),
                &raw const kCFTypeDictionaryKeyCallBacks,
                &raw const kCFTypeDictionaryValueCallBacks,
            ))
        };
        made.map(Self)
    }

    /// Lends the object.
    pub fn lent(&self) -> Lent<'_> {
        self.0.lent()
    }
}

/// A text.
pub fn text(text: &str) -> Result<Object, KeychainError> {
    let (bytes, length) = (text.as_ptr(), length(text.as_bytes()));
    // SAFETY: the bytes are copied while they are lent; what is made is the caller's.
    unsafe { Object::owned(CFStringCreateWithBytes(null(), bytes, length, codes::UTF8, 0)) }
}

/// A number.
pub fn number(value: i32) -> Result<Object, KeychainError> {
    // SAFETY: the number is of the kind that is named, and copied while it is lent; what is made is the caller's.
    unsafe { Object::owned(CFNumberCreate(null(), codes::SINT32, (&raw const value).cast())) }
}

fn length<T>(of: &[T]) -> isize {
    of.len().cast_signed()
}

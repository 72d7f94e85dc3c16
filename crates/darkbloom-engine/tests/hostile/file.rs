//! A GGUF file taken apart, to be changed and put together again. The format is ggml's `docs/gguf.md`.

/// A file in parts.
#[derive(Clone)]
pub struct Parts {
    pub keys: Vec<Key>,
    pub tensors: Vec<Tensor>,
}

/// A key and its value's bytes: for a list with the type of its elements and their number before them.
#[derive(Clone)]
pub struct Key {
    pub name: String,
    pub kind: u32,
    pub value: Vec<u8>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub sizes: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;
const ALIGNMENT: usize = 32;

struct Cursor<'f> {
    bytes: &'f [u8],
    at: usize,
}

impl<'f> Cursor<'f> {
    fn take(&mut self, length: usize) -> &'f [u8] {
        self.at += length;
        &self.bytes[self.at - length..self.at]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> &'f [u8] {
        let length = self.u64() as usize;
        self.take(length)
    }

    fn value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => drop(self.take(1)),
            2 | 3 => drop(self.take(2)),
            4..=6 => drop(self.take(4)),
            10..=12 => drop(self.take(8)),
            TEXT => drop(self.text()),
            LIST => {
                let (of, length) = (self.u32(), self.u64());
                (0..length).for_each(|_| self.value(of));
            }
            other => panic!("the shipped model has no type {other}"),
        }
    }
}

impl Parts {
    /// Takes a sound file apart.
    pub fn read(bytes: &[u8]) -> Self {
        let mut file = Cursor { bytes, at: 8 };
        let (tensors, keys) = (file.u64(), file.u64());
        let keys = (0..keys).map(|_| {
            let name = String::from_utf8(file.text().to_vec()).unwrap();
            let kind = file.u32();
            let begin = file.at;
            file.value(kind);
            Key { name, kind, value: bytes[begin..file.at].to_vec() }
        });
        let keys = keys.collect();
        let heads: Vec<_> = (0..tensors)
            .map(|_| {
                let name = file.text().to_vec();
                let sizes: Vec<_> = (0..file.u32()).map(|_| file.u64()).collect();
                (name, sizes, file.u32(), file.u64() as usize)
            })
            .collect();
        let data = &bytes[file.at.next_multiple_of(ALIGNMENT)..];
        let ends = heads.iter().skip(1).map(|head| head.3).chain([data.len()]).collect::<Vec<_>>();
        let tensors = heads.into_iter().zip(ends);
        let tensors = tensors.map(|((name, sizes, kind, begin), end)| Tensor {
            name,
            sizes,
            kind,
            data: data[begin..end].to_vec(),
        });
        Self { keys, tensors: tensors.collect() }
    }

    /// Puts the file together, with each tensor's data where it should be.
    pub fn write(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        let text = |file: &mut Vec<u8>, text: &[u8]| {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text);
        };
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        for key in &self.keys {
            text(&mut file, key.name.as_bytes());
            file.extend(key.kind.to_le_bytes());
            file.extend(&key.value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut file, &tensor.name);
            file.extend((tensor.sizes.len() as u32).to_le_bytes());
            tensor.sizes.iter().for_each(|size| file.extend(size.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
            file.extend(&tensor.data);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file
    }

    pub fn set(&mut self, name: &str, kind: u32, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.keys.iter_mut().find(|key| key.name == name) {
            Some(key) => (key.kind, key.value) = (kind, value),
            None => self.keys.push(Key { name: name.to_owned(), kind, value }),
        }
    }

    pub fn set_number(&mut self, name: &str, number: u32) {
        self.set(name, U32, number.to_le_bytes());
    }

    pub fn set_text(&mut self, name: &str, value: &str) {
        self.set(name, TEXT, text(value.as_bytes()));
    }

    pub fn value(&self, name: &str) -> &[u8] {
        &self.keys.iter().find(|key| key.name == name).expect("the key is there").value
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).expect("the tensor is there")
    }

    /// The same model under another architecture's name.
    pub fn rename_architecture(&mut self, to: &str) {
        let from = String::from_utf8(self.value("general.architecture")[8..].to_vec()).unwrap();
        for key in &mut self.keys {
            if let Some(rest) = key.name.strip_prefix(&format!("{from}.")) {
                key.name = format!("{to}.{rest}");
            }
        }
        self.set_text("general.architecture", to);
    }
}

/// A text as a value.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// A list of texts as a value.
pub fn texts(list: &[Vec<u8>]) -> Vec<u8> {
    let mut value = TEXT.to_le_bytes().to_vec();
    value.extend((list.len() as u64).to_le_bytes());
    list.iter().for_each(|bytes| value.extend(text(bytes)));
    value
}

/// A value that is a list of texts.
pub fn read_texts(value: &[u8]) -> Vec<Vec<u8>> {
    let mut list = Cursor { bytes: value, at: 4 };
    (0..list.u64()).map(|_| list.text().to_vec()).collect()
}

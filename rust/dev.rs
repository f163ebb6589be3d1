// SPDX-License-Identifier: GPL-2.0

//! `/dev/mgmt`: the bridge's endpoint for userspace. `docs/uapi.md` describes it.

use crate::{
    account::Holding,
    bindings,
    chardev::{current_euid, is_nonblocking, Pollable},
    inbox::CAPACITY,
    mcb::{check_written, Bind, Bridge, Fabric},
    message::{Draft, Message, Principal},
    mgmt_back::set_mvm_ip,
    policy::LoadError,
    port::{check_length, malformed, Full, Port},
    pure::{
        account::Owner,
        directory::Service,
        large::MAX_PAYLOAD,
        policy::MAX_TEXT,
        route::Above, //
    },
    report,
    spares::Spares,
    trace::{trace, Point},
    wire::{
        Address, AppId, Component, Header, Reason, Serial, ADDRESS_LEN, APP_ID_LEN, COMPONENT_LEN,
        HEADER_LEN,
    }, //
};
use kernel::{
    fs::{File, Kiocb},
    ioctl::{_IOR, _IOW, _IOWR},
    iov::{IovIterDest, IovIterSource},
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    new_mutex,
    prelude::*,
    sync::{poll::PollTable, Arc, Mutex, SetOnce},
    uaccess::{UserPtr, UserSlice}, //
};

/// An open file.
#[pin_data(PinnedDrop)]
pub(crate) struct MgmtFile {
    bridge: Arc<Bridge>,
    principal: Principal,
    /// Of the user who opened it.
    account: Holding,
    port: SetOnce<Arc<Port>>,
    /// The link to other platforms, if this file carries that.
    fabric: SetOnce<Arc<Fabric>>,
    /// Taken while binding, so that a file binds once.
    #[pin]
    binding: Mutex<()>,
}

/// Longest line that an unbound file takes: `bind `, a name, a newline.
const MAX_LINE: usize = 5 + APP_ID_LEN;

impl MgmtFile {
    fn port(&self) -> Result<&Arc<Port>> {
        self.port.as_ref().ok_or(EBADFD)
    }

    fn bind(&self, service: Service, shared: bool) -> Result {
        let _binding = self.binding.lock();
        self.require_unbound()?;
        let bind = Bind {
            service,
            shared,
            principal: self.principal,
            account: &self.account,
            awaited: None,
        };
        let port = Port::new(self.bridge.clone(), bind)?;
        self.port.populate(port);
        Ok(())
    }

    fn require_unbound(&self) -> Result {
        if self.port.as_ref().is_some() || self.fabric.as_ref().is_some() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Takes the line `bind NAME`, for those who cannot call ioctl.
    fn bind_line(&self, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let len = iov.len();
        let mut line = [0; MAX_LINE];
        let line = line.get_mut(..len).ok_or(EBADFD)?;
        if iov.copy_from_iter(line) != len {
            return Err(EFAULT);
        }
        let name = line.strip_prefix(b"bind ").ok_or(EBADFD)?;
        let name = name.strip_suffix(b"\n").unwrap_or(name);
        self.bind(AppId::new(name).map_err(|_| EINVAL)?.into(), false)?;
        Ok(len)
    }

    fn write(&self, iov: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        let len = iov.len();
        let port = self.port()?;
        let mut draft = port.draft(GFP_KERNEL_ACCOUNT)?;
        let mut header = take(&mut draft, iov, &self.bridge.spares)?;
        check_written(&header)?;
        port.send(&mut header, draft, GFP_KERNEL, Full::unless(nonblock))?;
        Ok(len)
    }

    /// Has this file carry the link to other platforms.
    fn carry_fabric(&self) -> Result<&Arc<Fabric>> {
        let _binding = self.binding.lock();
        self.require_unbound()?;
        self.fabric.populate(self.bridge.carry_fabric()?);
        self.fabric()
    }

    fn fabric(&self) -> Result<&Arc<Fabric>> {
        self.fabric.as_ref().ok_or(EBADFD)
    }

    fn read(&self, iov: &mut IovIterDest<'_>, nonblock: bool) -> Result<usize> {
        let room = iov.len();
        let put = |part: &[u8]| iov.copy_to_iter(part) == part.len();
        self.receive(room, nonblock, put)
    }

    /// Takes the next message, of at most so many bytes, and hands it to `put` in parts. Returns how
    /// many it has.
    fn receive(
        &self,
        room: usize,
        nonblock: bool,
        put: impl FnMut(&[u8]) -> bool,
    ) -> Result<usize> {
        let port = self.port()?;
        let endpoint = port.endpoint();
        let message = if nonblock {
            endpoint.inbox.pop(room)?
        } else {
            endpoint.inbox.pop_wait(room, &endpoint.readable, None)?
        };
        if !hand_out(&message, put) {
            endpoint.put_back(message);
            return Err(EFAULT);
        }
        let length = message.len();
        port.delivered(message);
        Ok(length)
    }

    /// Sends and receives several messages. What was done before an error is told instead of it.
    fn exchange(&self, asked: &mut bindings::mgmt_exchange, nonblock: bool) -> Result {
        if asked.reserved.iter().any(|&word| word != 0) {
            return Err(EINVAL);
        }
        let port = self.port()?;
        let full = Full::unless(nonblock);
        let mut sending = Span::new(asked.send, asked.send_length);
        let mut result = Ok(());
        while result.is_ok() && sending.left() > 0 {
            result = send_next(port, &mut sending, full);
        }
        asked.send_length = sending.done;
        let mut receiving = Span::new(asked.receive, asked.receive_length);
        // Only for the first does it wait.
        let mut waits = !nonblock;
        while result.is_ok() && receiving.left() > 0 {
            result = self.receive_next(&mut receiving, waits);
            waits = false;
        }
        asked.receive_length = receiving.done;
        if sending.done > 0 || receiving.done > 0 {
            return Ok(());
        }
        result
    }

    /// Receives a message to the start of user memory.
    fn receive_next(&self, to: &mut Span, waits: bool) -> Result {
        let mut user = UserSlice::new(to.start()?, to.left()).writer();
        let read = self.receive(to.left(), !waits, |part| user.write_slice(part).is_ok())?;
        to.advance(read);
        Ok(())
    }

    fn info(&self) -> bindings::mgmt_info {
        let summary = self.bridge.summary();
        let mut flags = 0;
        let mut app = [0; APP_ID_LEN];
        if let Some(port) = self.port.as_ref() {
            flags |= bindings::MGMT_INFO_BOUND;
            app = *port.endpoint().service.app.as_encoded();
        }
        if summary.uplink {
            flags |= bindings::MGMT_INFO_UPLINK;
        }
        if summary.names.above == Above::Nobody || summary.links > 0 {
            flags |= bindings::MGMT_INFO_MVM;
        }
        bindings::mgmt_info {
            abi: bindings::MGMT_ABI_VERSION,
            flags,
            component: Component::from(summary.names.own()).encode(),
            app,
            max_payload: MAX_PAYLOAD as u32,
            queue_bytes: CAPACITY.bytes,
            links: summary.links,
            endpoints: summary.endpoints,
            reserved: [0; 8],
        }
    }

    fn load_policy(&self, arg: usize) -> Result {
        let user = UserSlice::new(
            UserPtr::from_addr(arg),
            size_of::<bindings::mgmt_policy_load>(),
        );
        let (mut reader, mut writer) = user.reader_writer();
        let mut load: bindings::mgmt_policy_load = reader.read()?;
        if load.reserved.iter().any(|&word| word != 0) {
            return Err(EINVAL);
        }
        let length = load.length as usize;
        if length > MAX_TEXT {
            return Err(EMSGSIZE);
        }
        let mut text = KVVec::new();
        let from = UserPtr::from_addr(usize::try_from(load.text)?);
        UserSlice::new(from, length).read_all(&mut text, GFP_KERNEL_ACCOUNT)?;
        let loaded = match self.bridge.load_policy(text) {
            Ok(()) => {
                (load.line, load.column) = (0, 0);
                Ok(())
            }
            Err(LoadError::Rule { line, column }) => {
                (load.line, load.column) = (line, column);
                Err(EINVAL)
            }
            Err(LoadError::Other(e)) => return Err(e),
        };
        writer.write(&load)?;
        loaded
    }

    fn read_policy(&self, arg: usize) -> Result {
        let user = UserSlice::new(
            UserPtr::from_addr(arg),
            size_of::<bindings::mgmt_policy_read>(),
        );
        let (mut reader, mut writer) = user.reader_writer();
        let mut read: bindings::mgmt_policy_read = reader.read()?;
        if read.reserved.iter().any(|&word| word != 0) {
            return Err(EINVAL);
        }
        let policy = self.bridge.policy();
        let text = policy.text();
        let room = read.length as usize;
        // At most `MAX_TEXT` and `MAX_RULES`.
        read.length = text.len() as u32;
        read.rules = policy.len() as u32;
        if text.len() <= room {
            let to = UserPtr::from_addr(usize::try_from(read.text)?);
            UserSlice::new(to, text.len()).writer().write_slice(text)?;
        }
        writer.write(&read)?;
        if text.len() <= room {
            Ok(())
        } else {
            Err(ENOSPC)
        }
    }

    fn rule(&self, asked: &bindings::mgmt_rule) -> Result<bindings::mgmt_rule> {
        if asked.reserved.iter().any(|&word| word != 0) {
            return Err(EINVAL);
        }
        let policy = self.bridge.policy();
        let found = match asked.rule.checked_sub(bindings::MGMT_RULE_BUILT_IN) {
            None => policy.rule(asked.rule as usize),
            Some(number) => policy.built_in(number as usize).map(|hits| (0, hits)),
        };
        let (line, hits) = found.ok_or(ENOENT)?;
        Ok(bindings::mgmt_rule {
            line,
            hits,
            ..*asked
        })
    }
}

/// User memory for several messages, and how far they go.
struct Span {
    at: u64,
    length: u32,
    done: u32,
}

impl Span {
    fn new(at: u64, length: u32) -> Self {
        Self {
            at,
            length,
            done: 0,
        }
    }

    fn left(&self) -> usize {
        (self.length - self.done) as usize
    }

    /// Where what is left begins.
    fn start(&self) -> Result<UserPtr> {
        let at = self.at.checked_add(self.done.into()).ok_or(EFAULT)?;
        Ok(UserPtr::from_addr(usize::try_from(at)?))
    }

    /// So much of what was left is done.
    fn advance(&mut self, by: usize) {
        // At most what was left.
        self.done += by as u32;
    }
}

/// Sends the message at the start of user memory.
fn send_next(port: &Port, from: &mut Span, full: Full) -> Result {
    let room = from.left().checked_sub(HEADER_LEN).ok_or(EINVAL)?;
    let start = from.start()?;
    let mut user = UserSlice::new(start, from.left()).reader();
    let mut draft = port.draft(GFP_KERNEL_ACCOUNT)?;
    // What is behind this message need not be there.
    draft
        .take_small(&mut user, room)
        .or_else(|_| draft.take_header(&mut user))?;
    draft.check_fields().map_err(malformed)?;
    let written = draft.written_length();
    if draft.is_plain() && written <= room && draft.has_payload(written) {
        let Some(left) = port.send_known(draft, full)? else {
            from.advance(HEADER_LEN + written);
            return Ok(());
        };
        draft = left;
    }
    draft.check_addresses().map_err(malformed)?;
    let mut header = draft.stamped();
    check_written(&header)?;
    let length = written.min(room);
    check_length(&header, length)?;
    if !draft.has_payload(length) {
        let start = start.wrapping_byte_add(HEADER_LEN);
        let mut user = UserSlice::new(start, length).reader();
        draft.take_payload(&mut user, length, port.spares())?;
    }
    port.send_new(&mut header, draft, GFP_KERNEL, full)?;
    from.advance(HEADER_LEN + length);
    Ok(())
}

/// Hands out a message in parts. Whether all were taken.
fn hand_out(message: &Message, mut put: impl FnMut(&[u8]) -> bool) -> bool {
    let mut deadline = [0; 4];
    let parts = message.parts(&mut deadline);
    let pages = message.pages().map_or(&[][..], |pages| pages);
    let mut has = |part: &[u8]| part.is_empty() || put(part);
    parts.into_iter().all(&mut has) && has(pages)
}

/// Reads the next message for other platforms, with its number.
fn read_fabric(fabric: &Fabric, iov: &mut IovIterDest<'_>) -> Result<usize> {
    let number_len = size_of::<u64>();
    let room = iov.len().checked_sub(number_len).ok_or(EMSGSIZE)?;
    fabric.read(room, |reading| {
        let message = reading.message();
        let mut put = |part: &[u8]| iov.copy_to_iter(part) == part.len();
        if !put(&reading.number().to_le_bytes()) || !hand_out(message, put) {
            return Err(EFAULT);
        }
        trace(Point::Deliver, fabric.principal.owner, Reason::None, || {
            message.header()
        });
        Ok(number_len + message.len())
    })
}

/// Takes a whole message, if its header passes. Returns that.
fn take(draft: &mut Draft, iov: &mut IovIterSource<'_>, spares: &Spares) -> Result<Header> {
    let length = iov.len().checked_sub(HEADER_LEN).ok_or(EINVAL)?;
    if Draft::is_small(length) {
        draft.take_small(iov, length)?;
    } else {
        draft.take_header(iov)?;
    }
    draft.check().map_err(malformed)?;
    let header = draft.stamped();
    check_length(&header, length)?;
    if !draft.has_payload(length) {
        draft.take_payload(iov, length, spares)?;
    }
    Ok(header)
}

#[pinned_drop]
impl PinnedDrop for MgmtFile {
    fn drop(self: Pin<&mut Self>) {
        if let Some(fabric) = self.fabric.as_ref() {
            fabric.leave();
        }
    }
}

const IOC_BIND: u32 = _IOW::<bindings::mgmt_bind>(bindings::MGMT_IOC_MAGIC, 1);
const IOC_INFO: u32 = _IOR::<bindings::mgmt_info>(bindings::MGMT_IOC_MAGIC, 2);
const IOC_SET_MVM: u32 = _IOW::<bindings::mgmt_mvm>(bindings::MGMT_IOC_MAGIC, 3);
const IOC_POLICY_LOAD: u32 = _IOWR::<bindings::mgmt_policy_load>(bindings::MGMT_IOC_MAGIC, 5);
const IOC_POLICY_READ: u32 = _IOWR::<bindings::mgmt_policy_read>(bindings::MGMT_IOC_MAGIC, 6);
const IOC_RULE: u32 = _IOWR::<bindings::mgmt_rule>(bindings::MGMT_IOC_MAGIC, 7);
const IOC_ACCOUNT: u32 = _IOWR::<bindings::mgmt_account>(bindings::MGMT_IOC_MAGIC, 8);
const IOC_FABRIC: u32 = _IOWR::<bindings::mgmt_fabric>(bindings::MGMT_IOC_MAGIC, 9);
const IOC_FABRIC_SETTLE: u32 = _IOW::<bindings::mgmt_fabric_settle>(bindings::MGMT_IOC_MAGIC, 10);
const IOC_FABRIC_MOVED: u32 = _IOW::<bindings::mgmt_fabric_moved>(bindings::MGMT_IOC_MAGIC, 11);
const IOC_EXCHANGE: u32 = _IOWR::<bindings::mgmt_exchange>(bindings::MGMT_IOC_MAGIC, 12);
const IOC_FABRIC_HERE: u32 = _IOW::<bindings::mgmt_fabric_here>(bindings::MGMT_IOC_MAGIC, 13);
const IOC_FABRIC_PLATFORM: u32 =
    _IOW::<bindings::mgmt_fabric_platform>(bindings::MGMT_IOC_MAGIC, 14);
const IOC_BIND_HARDWARE: u32 = _IOW::<bindings::mgmt_bind_hardware>(bindings::MGMT_IOC_MAGIC, 15);
const IOC_HARDWARE: u32 = _IOWR::<bindings::mgmt_hardware>(bindings::MGMT_IOC_MAGIC, 16);
const IOC_FABRIC_HARDWARE: u32 =
    _IOW::<bindings::mgmt_fabric_hardware>(bindings::MGMT_IOC_MAGIC, 17);
const IOC_LINK: u32 = _IOWR::<bindings::mgmt_link>(bindings::MGMT_IOC_MAGIC, 4);

#[vtable]
impl MiscDevice for MgmtFile {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let bridge = crate::bridge().ok_or(ENODEV)?;
        let account = bridge.accounts.open(Owner::Uid(current_euid()))?;
        KBox::try_pin_init(
            try_pin_init!(Self {
                principal: bridge.new_principal(&account),
                account,
                bridge,
                port: SetOnce::new(),
                fabric: SetOnce::new(),
                binding <- new_mutex!((), "mgmt_file_binding"),
            }),
            GFP_KERNEL,
        )
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let file = kiocb.file();
        match file.fabric.as_ref() {
            Some(fabric) => read_fabric(fabric, iov),
            None => file.read(iov, is_nonblocking(&kiocb)),
        }
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let file = kiocb.file();
        if let Some(fabric) = file.fabric.as_ref() {
            let len = iov.len();
            let mut draft = Draft::new(fabric.principal, GFP_KERNEL_ACCOUNT)?;
            take(&mut draft, iov, &file.bridge.spares)?;
            fabric.write(draft)?;
            return Ok(len);
        }
        match file.port() {
            Ok(_) => file.write(iov, is_nonblocking(&kiocb)),
            Err(_) => file.bind_line(iov),
        }
    }

    fn ioctl(this: Pin<&Self>, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let user = |len| UserSlice::new(UserPtr::from_addr(arg), len);
        match cmd {
            IOC_BIND => {
                let bytes: [u8; size_of::<bindings::mgmt_bind>()] =
                    user(size_of::<bindings::mgmt_bind>()).reader().read()?;
                let (app, rest) = bytes.split_first_chunk().ok_or(EINVAL)?;
                let shared = is_shared(rest)?;
                this.bind(AppId::decode(app).map_err(|_| EINVAL)?.into(), shared)?;
            }
            IOC_BIND_HARDWARE => {
                require_admin()?;
                let bytes: [u8; size_of::<bindings::mgmt_bind_hardware>()] =
                    user(size_of::<bindings::mgmt_bind_hardware>())
                        .reader()
                        .read()?;
                let (address, rest) = bytes.split_first_chunk::<ADDRESS_LEN>().ok_or(EINVAL)?;
                let address = Address::decode(address).map_err(|_| EINVAL)?;
                let Component::Hardware(serial) = address.component else {
                    return Err(EINVAL);
                };
                let service = Service {
                    serial: Some(serial),
                    app: address.app.ok_or(EINVAL)?,
                };
                this.bind(service, is_shared(rest)?)?;
            }
            IOC_INFO => user(size_of::<bindings::mgmt_info>())
                .writer()
                .write(&this.info())?,
            IOC_SET_MVM => {
                require_admin()?;
                let bytes: [u8; size_of::<bindings::mgmt_mvm>()] =
                    user(size_of::<bindings::mgmt_mvm>()).reader().read()?;
                let (ip, rest) = bytes.split_first_chunk().ok_or(EINVAL)?;
                if rest.iter().any(|&b| b != 0) {
                    return Err(EINVAL);
                }
                set_mvm_ip(&this.bridge, *ip)?;
            }
            IOC_LINK => {
                require_admin()?;
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_link>()).reader_writer();
                let id = reader.read::<u32>()?;
                writer.write(&report::link(&this.bridge, id)?)?;
            }
            IOC_ACCOUNT => {
                require_admin()?;
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_account>()).reader_writer();
                let (kind, id) = (reader.read::<u32>()?, reader.read::<u32>()?);
                writer.write(&report::account(&this.bridge, kind, id)?)?;
            }
            IOC_POLICY_LOAD => {
                require_admin()?;
                this.load_policy(arg)?;
            }
            IOC_POLICY_READ => {
                require_admin()?;
                this.read_policy(arg)?;
            }
            IOC_RULE => {
                require_admin()?;
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_rule>()).reader_writer();
                let asked: bindings::mgmt_rule = reader.read()?;
                writer.write(&this.rule(&asked)?)?;
            }
            IOC_FABRIC => {
                require_admin()?;
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_fabric>()).reader_writer();
                let asked: bindings::mgmt_fabric = reader.read()?;
                if asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                let fabric = this.carry_fabric()?;
                writer.write(&bindings::mgmt_fabric {
                    lineage: fabric.lineage,
                    accepted: fabric.accepted(),
                    reserved: [0; 4],
                })?;
            }
            IOC_FABRIC_SETTLE => {
                let asked: bindings::mgmt_fabric_settle =
                    user(size_of::<bindings::mgmt_fabric_settle>())
                        .reader()
                        .read()?;
                let reason = u16::try_from(asked.reason).map_err(|_| EINVAL)?;
                let reason = Reason::try_from(reason).map_err(|_| EINVAL)?;
                if asked.reserved != 0 {
                    return Err(EINVAL);
                }
                this.fabric()?.settle(asked.number, reason)?;
            }
            IOC_FABRIC_MOVED => {
                let asked: bindings::mgmt_fabric_moved =
                    user(size_of::<bindings::mgmt_fabric_moved>())
                        .reader()
                        .read()?;
                if asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                this.bridge.guest_left(this.fabric()?, asked.uuid)?;
            }
            IOC_FABRIC_HERE => {
                let asked: bindings::mgmt_fabric_here =
                    user(size_of::<bindings::mgmt_fabric_here>())
                        .reader()
                        .read()?;
                if asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                this.fabric()?;
                this.bridge.guest_is_here(asked.uuid, asked.from)?;
            }
            IOC_FABRIC_PLATFORM => {
                let asked: bindings::mgmt_fabric_platform =
                    user(size_of::<bindings::mgmt_fabric_platform>())
                        .reader()
                        .read()?;
                if asked.is_there > 1 || asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                let fabric = this.fabric()?;
                this.bridge
                    .tell_platform(fabric, asked.mvm_ip, asked.is_there != 0);
            }
            IOC_FABRIC_HARDWARE => {
                let asked: bindings::mgmt_fabric_hardware =
                    user(size_of::<bindings::mgmt_fabric_hardware>())
                        .reader()
                        .read()?;
                if asked.is_there > 1 || asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                let serial = serial_of(&asked.component)?.ok_or(EINVAL)?;
                let fabric = this.fabric()?;
                this.bridge
                    .tell_hardware(fabric, serial, asked.is_there != 0);
            }
            IOC_HARDWARE => {
                require_admin()?;
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_hardware>()).reader_writer();
                let asked: bindings::mgmt_hardware = reader.read()?;
                if asked.reserved.iter().any(|&word| word != 0) {
                    return Err(EINVAL);
                }
                let last = serial_of(&asked.component)?;
                let next = this.bridge.hardware_after(last).ok_or(ENOENT)?;
                writer.write(&bindings::mgmt_hardware {
                    component: Component::Hardware(next).encode(),
                    ..asked
                })?;
            }
            IOC_EXCHANGE => {
                let (mut reader, mut writer) =
                    user(size_of::<bindings::mgmt_exchange>()).reader_writer();
                let mut asked: bindings::mgmt_exchange = reader.read()?;
                let nonblock = file.flags() & bindings::O_NONBLOCK != 0;
                let lengths = (asked.send_length, asked.receive_length);
                this.exchange(&mut asked, nonblock)?;
                // Most often all that there is was asked for.
                if lengths != (asked.send_length, asked.receive_length) {
                    writer.write(&asked)?;
                }
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

fn require_admin() -> Result {
    if crate::chardev::is_admin() {
        Ok(())
    } else {
        Err(EPERM)
    }
}

/// The serial number of an encoded component, or none if that is unspecified. `EINVAL` for others.
fn serial_of(component: &[u8; COMPONENT_LEN]) -> Result<Option<Serial>> {
    match Component::decode(component) {
        Ok(Component::Hardware(serial)) => Ok(Some(serial)),
        Ok(Component::Unspecified) => Ok(None),
        _ => Err(EINVAL),
    }
}

/// Whether the App_ID is shared, by what follows the name in a request to bind: flags and zeros.
fn is_shared(rest: &[u8]) -> Result<bool> {
    let (flags, reserved) = rest.split_first_chunk().ok_or(EINVAL)?;
    let flags = u32::from_ne_bytes(*flags);
    if flags & !bindings::MGMT_BIND_SHARED != 0 || reserved.iter().any(|&b| b != 0) {
        return Err(EINVAL);
    }
    Ok(flags & bindings::MGMT_BIND_SHARED != 0)
}

impl Pollable for MgmtFile {
    fn poll(this: Pin<&Self>, file: &File, table: PollTable<'_>) -> u32 {
        let is_readable = if let Some(port) = this.port.as_ref() {
            let endpoint = port.endpoint();
            table.register_wait(file, &endpoint.readable);
            endpoint.inbox.is_readable()
        } else if let Some(fabric) = this.fabric.as_ref() {
            table.register_wait(file, &fabric.readable);
            fabric.is_readable()
        } else {
            return bindings::POLLERR;
        };
        // Room depends on the destination, so a bound file may always be written to.
        let mut ready = bindings::POLLOUT | bindings::POLLWRNORM;
        if is_readable {
            ready |= bindings::POLLIN | bindings::POLLRDNORM;
        }
        ready
    }
}

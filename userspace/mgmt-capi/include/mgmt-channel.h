/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * M-channels from C: cc … $(pkg-config --cflags --libs mgmt-channel)
 *
 * Functions that return int return a negative number (MGMT_E_…) where they fail; mgmt_error() says
 * what was wrong. Threads may share an endpoint. docs/channel.md says what is promised.
 *
 * Made by cbindgen; a test of mgmt-capi says when it is out of date, and writes it anew with
 * MGMT_WRITE_HEADER=1.
 */

#ifndef MGMT_CHANNEL_H
#define MGMT_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

// A wrong argument, or anything else that has no code of its own.
#define MGMT_E_OTHER -1

// Time ran out.
#define MGMT_E_TIMED_OUT -2

// The request came back; mgmt_error() has the reason.
#define MGMT_E_UNDELIVERABLE -3

// The device went while the answer was awaited: the request may have arrived.
#define MGMT_E_LOST -4

// The receiver refused the request.
#define MGMT_E_TERMINATED -5

// Messages are not received fast enough.
#define MGMT_E_BACKLOG -6

// There is no device, or it may not be opened.
#define MGMT_E_NO_DEVICE -7

// The receiver is not there.
#define MGMT_E_NOT_THERE -8

// A rule forbids it.
#define MGMT_E_DENIED -9

// Another program has bound the App_ID.
#define MGMT_E_NAME_TAKEN -10

// The device need not be there yet.
#define MGMT_LAZY 1

// What is no answer to a request is not kept.
#define MGMT_REQUESTS_ONLY 2

// Others may bind the App_ID too.
#define MGMT_SHARED 4

// To all who have bound the App_ID there.
#define MGMT_BROADCAST 1

// If it cannot be delivered, nobody is told.
#define MGMT_NO_UNDELIVERABLE 4

// The payload is that of several messages, each behind its length (4 bytes, little-endian); they are
// received one by one.
#define MGMT_BUNDLE 8

// Somebody's message.
#define MGMT_MESSAGE 0

// A message that was sent came back.
#define MGMT_UNDELIVERABLE 1

// The device has gone; mgmt_message_id() is how many messages are not acknowledged.
#define MGMT_LOST 2

// The device is there again.
#define MGMT_RESTORED 3

// Somebody is there, is not any more, or has moved: see mgmt_message_kind().
#define MGMT_PRESENCE 4

// Who was found: the payload has an address on each line.
#define MGMT_FOUND 5

// A bound App_ID.
typedef struct mgmt_endpoint mgmt_endpoint;

// Something that was received.
typedef struct mgmt_message mgmt_message;

// Who comes and goes.
typedef struct mgmt_watch mgmt_watch;

// A message to send. What is 0 is not needed, but for the receiver.
typedef struct mgmt_outgoing {
  // APP@COMPONENT, such as "Power@mvm", "Power@vm:3", "Power@uuid:…".
  const char *to;
  // What is sent.
  const uint8_t *payload;
  // Bytes of it.
  size_t length;
  // How many of these are the application header.
  uint32_t app_header_length;
  // After so many milliseconds it is not worth delivering.
  uint32_t deadline_ms;
  // MGMT_BROADCAST, MGMT_NO_UNDELIVERABLE, MGMT_BUNDLE.
  uint16_t flags;
  // 1 discover, 2 establish, 3 data, 4 terminate; 0 is data.
  uint8_t kind;
  // 0 (bulk) to 255.
  uint8_t priority;
} mgmt_outgoing;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last call of this thread that failed says. Valid until the next one fails.
const char *mgmt_error(void);

// Binds an App_ID in this domain; flags are MGMT_LAZY, MGMT_REQUESTS_ONLY, MGMT_SHARED.
int mgmt_open(const char *app, uint32_t flags, struct mgmt_endpoint **endpoint);

// Frees the App_ID. No other call may be under way.
void mgmt_close(struct mgmt_endpoint *endpoint);

// Sends; *id (if not null) is what mgmt_message_id() says if it comes back.
int mgmt_send(const struct mgmt_endpoint *endpoint,
              const struct mgmt_outgoing *message,
              uint64_t *id);

// Sends a request and waits for its answer.
int mgmt_request(const struct mgmt_endpoint *endpoint,
                 const struct mgmt_outgoing *message,
                 uint32_t timeout_ms,
                 struct mgmt_message **answer);

// Answers a request.
int mgmt_reply(const struct mgmt_endpoint *endpoint,
               const struct mgmt_message *request,
               const uint8_t *payload,
               size_t length);

// Receives, waiting up to timeout_ms (without end if it is negative). 1 if something came, else 0.
int mgmt_recv(const struct mgmt_endpoint *endpoint,
              int64_t timeout_ms,
              struct mgmt_message **message);

// Who serves APP@COMPONENT (also APP@platform, APP@everywhere): asks, and collects answers for so long.
int mgmt_discover(const struct mgmt_endpoint *endpoint,
                  const char *whom,
                  uint32_t wait_ms,
                  struct mgmt_message **found);

// Watches who serves APP@COMPONENT, or APP@platform.
int mgmt_watch_open(const struct mgmt_endpoint *endpoint,
                    const char *whom,
                    struct mgmt_watch **watch);

// The next that comes or goes, as mgmt_recv(): its source is who, its kind 3 up, 4 down, 5 moved.
int mgmt_watch_next(const struct mgmt_watch *watch,
                    int64_t timeout_ms,
                    struct mgmt_message **message);

// Ends a watch.
void mgmt_watch_close(struct mgmt_watch *watch);

// Gives the device back, so that the module can be removed. 1 if that is done within timeout_ms,
// else 0.
int mgmt_suspend(const struct mgmt_endpoint *endpoint, uint32_t timeout_ms);

// Takes the device again.
int mgmt_resume(const struct mgmt_endpoint *endpoint);

// What it is: MGMT_MESSAGE, MGMT_UNDELIVERABLE, …
int mgmt_message_event(const struct mgmt_message *message);

// The kind of a message (2 establish, 3 data, 4 terminate, 6 reply), or what a watch tells.
int mgmt_message_kind(const struct mgmt_message *message);

// Whether its sender awaits a reply.
int mgmt_message_is_request(const struct mgmt_message *message);

// Why a message came back: a reason of docs/wire-format.md.
int mgmt_message_reason(const struct mgmt_message *message);

// Its number; of a message that came back, what sending it gave.
uint64_t mgmt_message_id(const struct mgmt_message *message);

// Who sent it, or whom it is about: APP@COMPONENT. Valid as long as the message.
const char *mgmt_message_source(const struct mgmt_message *message);

// Its payload, of *length bytes. Valid as long as the message.
const uint8_t *mgmt_message_payload(const struct mgmt_message *message, size_t *length);

// Frees a message.
void mgmt_message_free(struct mgmt_message *message);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MGMT_CHANNEL_H */

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Asks and prints the answer: ask APP@COMPONENT TEXT */
#include <mgmt-channel.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	mgmt_endpoint *endpoint;
	mgmt_message *answer;
	mgmt_outgoing question = { 0 };
	const uint8_t *payload;
	size_t length;

	if (argc != 3 || mgmt_open("Ask", MGMT_REQUESTS_ONLY, &endpoint) < 0) {
		fprintf(stderr, "ask: %s\n", mgmt_error());
		return 2;
	}
	question.to = argv[1];
	question.payload = (const uint8_t *)argv[2];
	question.length = strlen(argv[2]);
	if (mgmt_request(endpoint, &question, 5000, &answer) < 0) {
		fprintf(stderr, "ask: %s\n", mgmt_error());
		mgmt_close(endpoint);
		return 1;
	}
	payload = mgmt_message_payload(answer, &length);
	printf("%s: %.*s\n", mgmt_message_source(answer), (int)length, (const char *)payload);
	mgmt_message_free(answer);
	mgmt_close(endpoint);
	return 0;
}

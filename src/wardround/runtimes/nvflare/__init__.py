"""NVFlare as the carrier: it starts our processes in an existing federation, and moves our requests.

What is asked and answered, signed, checked, approved and written down is the same as over HTTPS
(`wardround.runtimes.https`): a site's agent sends the same signed requests, and the same application answers
them. NVFlare's messages take the place of TLS and sockets, NVFlare's certificates that of invitations. See
docs/decisions/0012-nvflare.md.

`controller`, `executor`, `launcher` and `keeper` import NVFlare; nothing else does.
"""

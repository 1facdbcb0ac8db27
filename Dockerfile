# The image that Gefyra's operator drives (docs/gefyra.md): our Python, our packages, busybox, and nothing that is not needed to run.
#
# The first stage installs into /opt/carrier and deploy/image/assemble collects the interpreter, the packages and the libraries they link
# to; the second has only those. wheels/, if there is one (`make image` makes it), is installed from without a network. Every wheel
# that we depend on exists for amd64 and arm64, so no compiler is needed in either stage.
ARG BASE=docker.io/library/python:3.13-slim-bookworm
FROM ${BASE} AS build
COPY deploy/image /image
RUN /image/prepare
COPY pyproject.toml README.md LICENSE requirements.lock wheel[s] /source/wheels/
COPY carrier /source/carrier
COPY listeners /source/listeners
COPY clusters /source/clusters
COPY transforms /source/transforms
RUN /image/install /source && /image/assemble /rootfs

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/carrier2-entry"]

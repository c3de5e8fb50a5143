# MinIO's server from the source of its last release, RELEASE.2025-10-15T17-29-55Z: its makers publish no image of it, and
# their last image lacks the fix of CVE-2025-62506. The version names the release's commit, 9e49d5e7a648. Go holds what it
# gets, dependencies included, against its public checksum database, and the digest below is the source's once more.
FROM golang:1.24.13-alpine3.22@sha256:3641e0d9b931dc4f2f185dcd669c4679670e9277c8166a838ddb98a2d4389cb5 AS build
SHELL ["/bin/ash", "-eo", "pipefail", "-c"]
ARG VERSION=v0.0.0-20251015172955-9e49d5e7a648
ARG DIGEST=h1:6TdolSCLSs2nwm8i0PpWDqf9iX2Ty9WQK8wmr7dCnUM=
ENV CGO_ENABLED=0 GOSUMDB=sum.golang.org GOTOOLCHAIN=local
RUN name=github.com/minio/minio \
    && go install -trimpath -ldflags "-s -w -X $name/cmd.Version=2025-10-15T17:29:55Z \
        -X $name/cmd.ReleaseTag=RELEASE.2025-10-15T17-29-55Z -X $name/cmd.ShortCommitID=9e49d5e7a648" "$name@$VERSION" \
    && go version -m /go/bin/minio | grep -F "$DIGEST" \
    && cp "/go/pkg/mod/$name@$VERSION/LICENSE" /go/LICENSE

FROM alpine:3.22@sha256:14358309a308569c32bdc37e2e0e9694be33a9d99e68afb0f5ff33cc1f695dce
COPY --from=build /go/bin/minio /usr/local/bin/minio
COPY --from=build /go/LICENSE /usr/share/licenses/minio/LICENSE
ENV HOME=/tmp
USER 1000:1000
EXPOSE 9000
ENTRYPOINT ["minio"]
CMD ["server", "/data"]

"""TLS of mounts, in the forms that Gefyra's client writes."""

import pytest

from carrier.gefyra.certificates import Certificates
from tests.cluster.control import encoded

SECRET = {"secret": {"namespace": "shop", "name": "tls", "key": "tls.crt"}}
PATHS = {"certificate": "/c.pem", "key": "/k.pem"}


class Secrets:
    """An access that has one Secret."""

    async def get(self, kind, namespace, name):
        return {"data": {"tls.crt": encoded("PEM"), "odd": "%%"}} if (kind, namespace, name) == ("Secret", "shop", "tls") else None


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        ({}, None),
        ({"tls": PATHS}, PATHS),
        ({"tls": {**PATHS, "sni": "a.test"}}, {**PATHS, "sni": "a.test"}),
        ({"tls": {**PATHS, "sni": None}}, PATHS),
        ({"8443": {"tls": PATHS}}, PATHS),
        ({"8443": {"tls": PATHS}, "tls": {"certificate": "/x", "key": "/y"}}, PATHS),
        ({"tls": {"certificate": SECRET, "key": "/k.pem"}}, {"certificate": "from_k8s_secret_cert_all.pem", "key": "/k.pem"}),
        ({"8443": {"tls": {"certificate": SECRET, "key": "/k"}}}, {"certificate": "from_k8s_secret_cert_8443.pem", "key": "/k"}),
    ],
)
def test_each_form_says_what_it_means(parameter, found):
    made = Certificates(parameter, "shop")
    assert made.problems([8443]) == []
    assert made.of(8443) == found


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ({"tls": {"certificate": "/c"}}, "TLS of port 8443: key cannot be None"),
        ({"tls": {"certificate": {"secret": {"name": "tls"}}, "key": "/k"}}, "certificate cannot be"),
        ({"80": {"tls": PATHS}}, "given for port 80, which the container does not have; it has 8443"),
        ({"8443": PATHS}, "no object with TLS"),
        ({"cert": "/c"}, "the parameter 'cert' of a mount is none"),
    ],
)
def test_what_is_none_is_told(parameter, sentence):
    assert sentence in "; ".join(Certificates(parameter, "shop").problems([8443]))


async def test_secrets_are_read_and_what_they_lack_is_told():
    sni = {"secret": {"name": "tls", "key": "tls.crt"}}
    made = Certificates({"tls": {"certificate": SECRET, "key": "/k.pem", "sni": sni}}, "shop")
    assert await made.read(Secrets(), [8443]) == ({"from_k8s_secret_cert_all.pem": "PEM"}, {8443: "PEM"})
    for key, sentence in (("none", "has no key 'none'; it has odd, tls.crt"), ("odd", "holds no PEM text")):
        odd = {"secret": {**SECRET["secret"], "key": key}}
        with pytest.raises(LookupError, match=sentence):
            await Certificates({"tls": {"certificate": odd, "key": "/k"}}, "shop").read(Secrets(), [8443])
    with pytest.raises(LookupError, match="there is no Secret tls in namespace elsewhere"):
        await Certificates({"tls": {"certificate": SECRET | {"secret": {**SECRET["secret"], "namespace": "elsewhere"}}}}, "x").read(
            Secrets(), [1]
        )

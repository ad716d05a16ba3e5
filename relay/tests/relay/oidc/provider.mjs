// A real provider of OpenID Connect for one client, in which whoever is named logs in without a word, and whose ID tokens can be
// spoilt on their way out. Arguments: the folder of its packages, and its settings as JSON. Says "ready" when it listens.
import { createHash, randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, text] = process.argv.slice(2);
const settings = JSON.parse(text);
const packages = createRequire(pathToFileURL(`${folder}/package.json`));
const load = async (name) => import(pathToFileURL(packages.resolve(name)));
const [{ default: Provider }, jose] = await Promise.all([load("oidc-provider"), load("jose")]);

const people = {
  ada: { preferred_username: "ada", groups: ["robotics"], email: "ada@example.org", email_verified: true },
  bob: { preferred_username: "bob", groups: ["canteen"] },
  mallory: { preferred_username: "admin", groups: ["robotics"] },
  nameless: { preferred_username: "x y", groups: ["robotics"] },
};

// Who logs in next, what they are, and how their token is spoilt.
const next = { who: "ada", twist: "" };

const pair = async () => {
  const { privateKey, publicKey } = await jose.generateKeyPair("RS256", { extractable: true });
  return { privateKey, publicKey, jwk: { ...(await jose.exportJWK(privateKey)), alg: "RS256", use: "sig" } };
};
const own = await pair();
own.jwk.kid = createHash("sha256").update(own.jwk.n).digest("hex").slice(0, 8);

const twists = {
  nonce: { nonce: "another" },
  audience: { aud: "another" },
  issuer: { iss: "https://another.example" },
  expired: { exp: Math.floor(Date.now() / 1000) - 3600, iat: Math.floor(Date.now() / 1000) - 7200 },
};

async function spoilt(token) {
  const claims = { ...jose.decodeJwt(token), ...twists[next.twist] };
  const header = { alg: "RS256", kid: own.jwk.kid };
  const sign = (key, alg = "RS256") => new jose.SignJWT(claims).setProtectedHeader({ ...header, alg }).sign(key);
  switch (next.twist) {
    case "none": {
      const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
      return `${part({ alg: "none" })}.${part(claims)}.`;
    }
    case "symmetric":
      return sign(new TextEncoder().encode(await jose.exportSPKI(own.publicKey)), "HS256");
    case "forged":
      return sign((await pair()).privateKey);
    default:
      return sign(own.privateKey);
  }
}

const scope = "openid profile groups";
const provider = new Provider(settings.issuer, {
  clients: [
    {
      client_id: settings.client_id,
      ...(settings.client_secret
        ? { client_secret: settings.client_secret }
        : { token_endpoint_auth_method: "none" }),
      redirect_uris: settings.redirect_uris,
    },
  ],
  jwks: { keys: [own.jwk] },
  scopes: scope.split(" "),
  claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
  // Otherwise claims are at the userinfo endpoint alone.
  conformIdTokenClaims: !settings.claims_in_token,
  cookies: { keys: [randomUUID()] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_, interaction) => `/test/interaction/${interaction.uid}` },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
  async loadExistingGrant({ oidc }) {
    const grant = new provider.Grant({ clientId: settings.client_id, accountId: oidc.session.accountId });
    grant.addOIDCScope(scope);
    await grant.save();
    return grant;
  },
});

provider.use(async (context, following) => {
  const { pathname, searchParams } = new URL(context.url, settings.issuer);
  if (pathname === "/test/next") {
    for (const [key, value] of searchParams) {
      if (key === "groups") people[next.who].groups = value.split(",");
      else next[key] = value;
    }
    context.body = "";
  } else if (pathname.startsWith("/test/interaction/")) {
    const result = next.who === "nobody" ? { error: "access_denied" } : { login: { accountId: next.who } };
    context.redirect(await provider.interactionResult(context.req, context.res, result));
  } else {
    await following();
    if (context.oidc?.route === "token" && context.body?.id_token && next.twist) {
      context.body.id_token = await spoilt(context.body.id_token);
    }
  }
});

provider.listen(settings.port, "127.0.0.1", () => console.log("ready"));

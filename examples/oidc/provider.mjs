// An OpenID provider for the example and the tests: https://github.com/panva/node-oidc-provider with accounts that need no
// password, in memory; and below /shop the shop that the gateway protects. Fit for trying things out, and for nothing else.
//
//   node provider.mjs [ADDRESS] [GATEWAY]
//
// ADDRESS is where it listens, GATEWAY where browsers reach the gateway.
import http from 'node:http';
import Provider from 'oidc-provider';

const address = process.argv[2] ?? '127.0.0.1:3000';
const gateway = process.argv[3] ?? 'http://127.0.0.1:8080';
const issuer = `http://${address}`;

const accounts = {
  alice: { name: 'Alice', email: 'alice@shop.example', groups: ['staff', 'managers'] },
  bob: { name: 'Bob', email: 'bob@shop.example', groups: ['staff'] },
};

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'postern',
      client_secret: 'a-secret-of-the-example-and-of-nothing-else',
      redirect_uris: [`${gateway}/oauth2/callback`],
      post_logout_redirect_uris: [`${gateway}/`, `${gateway}/shop`],
      backchannel_logout_uri: `${gateway}/oauth2/backchannel-logout`,
      backchannel_logout_session_required: true,
      grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
    },
  ],
  async findAccount(ctx, id) {
    const claims = accounts[id] ?? { name: id, email: `${id}@shop.example`, groups: [] };
    return { accountId: id, claims: async () => ({ sub: id, ...claims }) };
  },
  claims: { openid: ['sub', 'groups'], profile: ['name'], email: ['email'] },
  // The ID token says all, and not the user info endpoint alone.
  conformIdTokenClaims: false,
  features: {
    backchannelLogout: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  pkce: { required: () => true },
  issueRefreshToken: async () => true,
  rotateRefreshToken: true,
  // Nobody is asked whether the gateway may know who they are.
  async loadExistingGrant(ctx) {
    const { client, session, params } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
  ttl: {
    AccessToken: Number(process.env.ACCESS_TOKEN_SECONDS ?? 300),
    ClientCredentials: 600,
    Grant: 3600,
    IdToken: 600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
  cookies: { keys: ['not-a-secret'] },
});

// The shop knows its customers from the gateway, and never sees a cookie or a token.
function shop(request, response) {
  const user = request.headers['x-user'];
  const links = user
    ? `<p>Hello ${user}. <a href="/shop/orders">Your orders</a> <a href="/shop/figures">Figures</a> <a href="/oauth2/logout">Log out</a></p>`
    : '<p><a href="/oauth2/login?return_to=/shop">Log in</a></p>';
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' });
  response.end(`<!doctype html><title>Shop</title><h1>The shop</h1><p>${new URL(request.url, issuer).pathname}</p>${links}\n`);
}

provider.on('server_error', (ctx, error) => console.error(error));
const answer = provider.callback();
const [host, port] = address.split(':');
const server = http.createServer((request, response) => {
  (/^\/shop([/?]|$)/.test(request.url) ? shop : answer)(request, response);
});
server.listen(Number(port), host, () => console.log(`OpenID provider at ${issuer}`));

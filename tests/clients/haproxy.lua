-- Asks the broker about the token of each request; `txn.active` is its answer.
local url = "https://broker.example/introspect"
local name, secret = "deploy-api", "resource-server-secret"

core.register_action("dayfly", { "http-req" }, function(txn)
  txn:set_var("txn.active", false)
  local token = txn.f:http_auth_bearer()
  -- Whatever would need encoding in a form is no token.
  if not token or not token:match("^[%w%-._~]+$") then return end
  local answer = core.httpclient():post {
    url = url,
    headers = {
      ["authorization"] = { "Basic " .. txn.c:base64(name .. ":" .. secret) },
      ["content-type"] = { "application/x-www-form-urlencoded" },
    },
    body = "token=" .. token,
    timeout = 2000,
  }
  -- No answer is no yes.
  if answer.status == 200 and answer.body:match('^{"active":true,') then
    txn:set_var("txn.active", true)
  end
end)

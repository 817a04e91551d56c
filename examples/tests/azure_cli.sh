#!/bin/sh
# Drives a server with the Azure CLI as the server's page says: azure_cli.sh AZ DOCUMENT EXEC [ADDRESSES],
# with the variables of azure.env. EXEC is the script that types into a terminal; with ADDRESSES the
# server makes virtual networks.
set -eu
az=$1 document=$2 exec=$3 addresses=${4:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AZURE_CONFIG_DIR="$work/config" AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_CHECK_LATEST=no

az() {
    echo "az $*" >&2
    "$az" "$@"
}

# is WANTED az ...: the command says just that.
is() {
    wanted=$1
    shift
    got=$("$@" --output tsv)
    [ "$got" = "$wanted" ] || { echo "expected $wanted, not $got" >&2; exit 1; }
}

# refused CODE az ...: the command fails and says the code.
refused() {
    code=$1
    shift
    if said=$("$@" 2>&1); then
        echo "it was not refused" >&2
        exit 1
    fi
    case $said in *"$code"*) ;; *) echo "no $code in: $said" >&2; exit 1 ;; esac
}

az cloud register --name local --endpoint-resource-manager "$ACI_ENDPOINT" \
    --endpoint-active-directory "$ACI_ENDPOINT" --endpoint-active-directory-resource-id https://management.azure.com/
az cloud set --name local
is local az login --identity --query '[].name'
az group create --name demo --location local --output none
az container create --resource-group demo --file "$document" --output none
is Running az container show --resource-group demo --name hello --query instanceView.state
is hello az container list --resource-group demo --query '[].name'
az container logs --resource-group demo --name hello --container-name web | grep 'serving /site' >/dev/null
az container exec --resource-group demo --name hello --container-name web --exec-command /bin/ls | grep site >/dev/null
python3 "$exec" "$az" container exec --resource-group demo --name hello --container-name web --exec-command /bin/sh
timeout 6 "$az" container attach --resource-group demo --name hello --container-name web >"$work/attached" || true
grep 'GET /index.html' "$work/attached" >/dev/null
az container stop --resource-group demo --name hello
is Stopped az container show --resource-group demo --name hello --query instanceView.state
az container start --resource-group demo --name hello
az container restart --resource-group demo --name hello
is Running az container show --resource-group demo --name hello --query instanceView.state
az monitor metrics list --resource hello --resource-group demo --resource-type Microsoft.ContainerInstance/containerGroups \
    --metrics CpuUsage --output none
is SystemAssigned az container create --resource-group demo --name job --image local/hello:1 --os-type Linux \
    --cpu 0.1 --memory 0.1 --restart-policy Never --command-line "/bin/sh -c 'echo done'" --assign-identity \
    --query identity.type
[ "$(az container logs --resource-group demo --name job)" = done ]
az container export --resource-group demo --name job --file "$work/job.yaml"
az container delete --resource-group demo --name job --yes --output none
is Succeeded az container create --resource-group demo --file "$work/job.yaml" --query properties.provisioningState
refused InvalidContainerName az container create --resource-group demo --name BAD --image local/hello:1 \
    --os-type Linux --cpu 0.1 --memory 0.1
refused ResourceNotFound az container logs --resource-group demo --name none

cat >"$work/template.json" <<'TEMPLATE'
{
  // Templates may have comments.
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {"name": {"type": "string"}},
  "resources": [{
    "type": "Microsoft.ContainerInstance/containerGroups",
    "apiVersion": "2023-05-01",
    "name": "[parameters('name')]",
    "location": "[resourceGroup().location]",
    "properties": {
      "osType": "Linux",
      "containers": [{"name": "app", "properties": {
        "image": "local/hello:1",
        "command": ["/bin/sleep", "3600"],
        "resources": {"requests": {"cpu": 0.1, "memoryInGB": 0.1}}
      }}]
    }
  }],
  "outputs": {"name": {"type": "string", "value": "[parameters('name')]"}}
}
TEMPLATE
az deployment group what-if --resource-group demo --template-file "$work/template.json" --parameters name=deployed \
    --no-pretty-print --query changes[].changeType --output tsv | grep Create >/dev/null
is deployed az deployment group create --resource-group demo --name first --template-file "$work/template.json" \
    --parameters name=deployed --query properties.outputs.name.value
is Succeeded az deployment operation group list --resource-group demo --name first \
    --query '[].properties.provisioningState'
if [ -n "$addresses" ]; then
    az network vnet create --resource-group demo --name lan --address-prefixes 10.66.0.0/16 --subnet-name in \
        --subnet-prefixes 10.66.1.0/24 --output none
    az container create --resource-group demo --name inside --image local/hello:1 --os-type Linux --cpu 0.1 \
        --memory 0.1 --command-line "/bin/sleep 3600" --vnet lan --subnet in --query ipAddress.ip --output tsv |
        grep '^10\.66\.1\.'
    refused InUseSubnetCannotBeDeleted az network vnet delete --resource-group demo --name lan
    az network nsg create --resource-group demo --name rules --output none
    az network nsg rule create --resource-group demo --nsg-name rules --name web --priority 100 --direction Inbound \
        --access Deny --protocol Tcp --destination-port-ranges 8080 --output none
    az network vnet subnet update --resource-group demo --vnet-name lan --name in --network-security-group rules \
        --output none
    is web az network nsg show --resource-group demo --name rules --query 'securityRules[].name'
    refused InUseNetworkSecurityGroupCannotBeDeleted az network nsg delete --resource-group demo --name rules
    az network route-table create --resource-group demo --name table --output none
    az network route-table route create --resource-group demo --route-table-name table --name away \
        --address-prefix 10.50.0.0/16 --next-hop-type None --output none
    az network vnet subnet update --resource-group demo --vnet-name lan --name in --route-table table --output none
    az container delete --resource-group demo --name inside --yes --output none
    az network vnet delete --resource-group demo --name lan
    az network nsg delete --resource-group demo --name rules
    az network route-table delete --resource-group demo --name table
fi
az container delete --resource-group demo --name hello --yes --output none
az group delete --name demo --yes
is false az group exists --name demo
echo "passed: azure-cli $("$az" version --query '"azure-cli"' --output tsv)"

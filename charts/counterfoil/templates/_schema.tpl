{{- /*
Annotations of what runs before each install and upgrade; takes the weight, the lowest comes first. Helm does not remove
hooks with the release: they go when they have succeeded, and one that failed stays to be read until the next attempt.
*/ -}}
{{- define "counterfoil.schemaHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
